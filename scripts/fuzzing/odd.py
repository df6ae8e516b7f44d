"""Values that a server may trip over, by the field that they are for."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from aiotus_server.protocol.checksum import algorithms

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

_escape = re.compile(rb"\\x([0-9a-f]{2})")


def listed(text: str) -> tuple[bytes, ...]:
    r"""The values between bars, without the blanks around them: in UTF-8, or bytes as ``\xff``."""

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 16)])

    return tuple(_escape.sub(byte, value.strip().encode()) for value in text.split("|"))


TOP = 2**63

NUMBERS = (
    *listed(
        r"| 0 | 00 | 1 | 007 | -1 | -0 | +5 | 1_0 | 5.0 | 1e3 | 0x10 | 0b1 | \x205\x20 | 5 5 | 5,5"
    ),
    *listed(
        r"5; | 5\x09 | 5\x00 | \x005 | 5\x0b | nan | inf | None | true | \xff | \xd9\xa3 | \xef\xbc\x95 | ² | 5\xc2\xa0"
    ),
    *(b"%d" % (TOP + step) for step in (-2, -1, 0, 1)),
    *(b"%d" % (2 * TOP + step) for step in (-2, -1, 0, 1)),
    *(b"%d" % 2**bits for bits in (31, 32)),
    *(b"9" * size for size in (19, 20, 300, 4400)),
    *(b"0" * size for size in (300, 4400, 8000)),
    b"0" * 4400 + b"5",
)

TEXTS = (
    *listed(r"| \x20 | \x09 | \x20\x09\x20 | , | ,, | ; | = | ' | * | %s%n%x | {} | \x22 | \x5c"),
    *listed(
        r"\x00 | \x01 | \x0b | \x1f | \x7f | \x80 | \xff\xfe\xfd | \xed\xa0\x80 | a\x00b | a\x7fb"
    ),
    *listed(
        r"ü | 🙂 | \xe2\x80\xae | \xfc | x\x0d\x0a folded | x\x0d\x0a\x09folded | x\x0ay | x\x0dy"
    ),
    *listed(r"x\x0d\x0d\x0a | x\x0d\x0aX-Injected: yes"),
    *(b"a" * size for size in (100, 4096, 8180, 8190, 8191, 20_000)),
)

METHODS = (
    *listed(
        "GET | HEAD | POST | PATCH | DELETE | OPTIONS | PUT | TRACE | CONNECT | patch | Patch | PRI"
    ),
    *listed("PROPFIND | SOURCE | M-SEARCH | QUERY | LINK | X || PAT CH | PÄTCH | <PATCH>"),
    *listed(r"\x20 | PATCH\x09 | PATCH\x00"),
    b"A" * 9000,
)

VERSIONS = (
    *listed(
        "HTTP/1.0 | HTTP/0.9 | HTTP/1.2 | HTTP/2.0 | HTTP/3.0 | HTTP/9.9 | HTTP/1 | HTTP/1. | HTTP/.1"
    ),
    *listed(
        "HTTP/11.1 | HTTP/1.1.1 | HTTP/-1.1 | http/1.1 | HTTPS/1.1 || HTTP/1.1 x | ICE/1.0 | RTSP/1.0"
    ),
    *listed(r"\x20HTTP/1.1 | HTTP/1.1\x20 | HTTP/1.1\x00 | HTTP/\xd9\xa1.\xd9\xa1"),
)

METADATA = (
    *listed(
        r"| \x20 | , | a | a,b | a,a | a ,b\x20 | ,a | a, | a,,b | a, b | a,\x09b | a b c | a  YQ=="
    ),
    *listed(
        r"\x20YQ== | a YQ | a YQ= | a YQ=== | a = | a ==== | a Y Q== | a -_-_ | a !!!! | a YQ==\x00"
    ),
    *listed(
        r"\x00 YQ== | ü YQ== | a ü | a\x09YQ== | a YQ==\x09 | a YQ==,a Yg== | \xff YQ== | a \xff"
    ),
    b"a " + b"A" * 8000,
    b",".join(b"k%d YQ==" % number for number in range(500)),
)

# What the file name and the type of a download may be made of.
NAMES = (
    *listed(
        r"../../etc/passwd | a\x0d\x0aX-Injected: yes | a\x0ab | \x00 | \x22 | \x5c | \xff\xfe || ."
    ),
    *listed(r"ü.txt | \xe2\x80\xae.exe | %0d%0a | .. | a/b\x5cc | ;"),
    b"a" * 3000,
)
TYPES = (
    *listed(r"text/html | text/plain\x0d\x0aX-Injected: yes | text/plain; charset=x || / | a/b/c"),
    *listed(r"\xff/\xff | image/png | TEXT/PLAIN | text/plain\x00"),
    b"a" * 3000 + b"/b",
)

_SHA1 = base64.b64encode(bytes(20))
CHECKSUMS = (
    *listed(
        r"| sha1 | sha1\x20 | \x20sha1 | sha1 ==== | sha1 x | sha1 YQ== | sha1 \xff | sha1 ü | sha0 x"
    ),
    *listed(r"\x00 x | crc32 AAAAAA== | crc32 AAAA"),
    *(before + _SHA1 for before in (b"sha1  ", b"SHA1 ", b"sha1\t", b"sha1 YQ==,sha1 ")),
    *(b"sha1 " + _SHA1 + behind for behind in (b"=", b" ", b",sha1 " + _SHA1)),
    *(b"sha1 " + _SHA1[:-1], b"sha1 " + b"_-" * 14, b"sha1 " + b"A" * 8000),
    *(name.encode() + b" " + _SHA1 for name in algorithms()),
)

OVERRIDES = (
    *listed(r"GET | HEAD | POST | PATCH | DELETE | OPTIONS | PUT | patch | TRACE || PATCH,PATCH"),
    *listed(r"PATCH\x20 | CONNECT | \xff | PATCH\x00"),
    b"A" * 8000,
)

TRANSFER_CODINGS = (
    *listed(
        r"chunked | Chunked | \x20chunked | chunked\x20 | \x0bchunked | chunked\x00 | xchunked"
    ),
    *listed(
        r"gzip, chunked | chunked, gzip | chunked, chunked | identity | gzip | chunked;q=1 || ,"
    ),
    *listed(r"chunked, | \x09chunked | \xef\xbd\x83hunked | \x22chunked\x22 | identity, chunked"),
)
CONTENT_CODINGS = listed(
    r"gzip | deflate | br | zstd | identity | x-gzip | compress | GZIP || , | identity, gzip"
    r"| gzip, gzip | identity, | \xff | gzip\x00"
)
EXPECTATIONS = listed(
    r"100-continue | 100-Continue | 100-continue\x20 | 200-ok || 100 | \xff"
    r"| 100-continue, 100-continue | 100-continue; a=b"
)
TRAILER_NAMES = listed(
    r"Upload-Checksum | upload-checksum | Upload-Checksum, X | X || , | \xff | Content-Length"
    r"| Transfer-Encoding | Upload-Checksum,Upload-Checksum"
)
CONNECTIONS = listed(
    r"close | keep-alive | upgrade | Upgrade, HTTP2-Settings | close, keep-alive || te"
    r"| content-length | transfer-encoding | \xff"
)
TYPES_OF_BODIES = listed(
    r"application/offset+octet-stream | Application/Offset+Octet-Stream | text/plain || / | ; | \xff"
    r"| application/offset+octet-stream; a=b | application/offset+octet-stream; | multipart/x"
    r"| application/offset+octet-stream, text/plain | application/x-www-form-urlencoded"
    r"| application/offset octet-stream | application/octet-stream"
)
VERSIONS_OF_TUS = (
    *listed(
        r"1.0.0 | 1.0.1 | 0.2.2 | 2.0.0 | 1.0 || \x201.0.0 | 1.0.0\x20 | 1.0.0,1.0.0 | \xef\xbc\x91.0.0"
    ),
    *listed(r"\xff | 1.0.0\x00"),
    b"1" * 8000,
)
ORIGINS = (
    *listed(r"https://app.example | null || * | a b | https://a\x7f | \xff"),
    *(b"https://app.example, https://b.example", b"a" * 8000),
)
HOSTS = (
    *listed(
        r"| localhost | a b | x:99999 | x:-1 | x:y | [::1] | [::1 | evil/../ | a@b | a?b | a#b | \xff"
    ),
    *listed(r"ü | a,b | \x22 | <script> | : | %00"),
    b"a" * 8000,
)
FORWARDED = (
    *listed(
        r"for=1.2.3.4;proto=https;host=a.example | proto=https | host= | host=\x22a | host=a b"
    ),
    *listed(r"proto=javascript;host=x | for=; | ;;; | ,,, | = | \x22 | \x5c | \xff | host=\xff"),
    *listed(r"for=\x22[::1]:1\x22;host=\x22a\x5c\x22b\x22 | for=_x;for=_y;proto=http;proto=https"),
    b"a=b," * 1500,
)
FORWARDED_HOSTS = (*listed(r"a.example || a b | a/b | a,b | \xff | a:1:2"), b"a" * 8000)
FORWARDED_PROTOCOLS = listed(r"https | http | ftp || javascript | https, http | \xff")
RANGES = (
    *listed(
        r"bytes=0- | bytes=0-0 | bytes=-1 | bytes=-0 | bytes=5-2 | bytes=0-0,2-3 | bytes= | bytes=-"
    ),
    *listed(
        r"bytes=1 | bytes=a-b | items=0-5 | bytes=-9223372036854775808 || bytes=\xd9\xa3- | \xff"
    ),
    *listed(
        r"bytes=9223372036854775807- | bytes=0-99999999999999999999 | bytes=0-9223372036854775807"
    ),
    *(b"bytes=" + digit * 4400 + b"-" for digit in (b"0", b"9")),
    b"bytes=0-0" + b",1-1" * 1500,
)
DATES = (
    *listed(
        "Sun, 06 Nov 1994 08:49:37 GMT | Sunday, 06-Nov-94 08:49:37 GMT | Sun Nov  6 08:49:37 1994"
    ),
    *listed(
        "Thu, 01 Jan 2099 00:00:00 GMT | Thu, 01 Jan 1970 00:00:00 +9999 || , | , , | Mon | 1 , ,"
    ),
    *listed(
        "1 Jan , 10:00 +0000 | 1 Jan 2020 10:00:00 +99999999999 | 0 0 0 0 0 | - - - - - | 1 Jan 2020 ,"
    ),
    *listed(
        "Sun, 06 Nov 99999999999 08:49:37 GMT | 32 Jan 2020 10:00:00 GMT | 1 Jan 2020 99:99:99 GMT"
    ),
    *listed(
        "1 Jan 2020 1:2:3:4 GMT | 1 Jan 2020 . GMT | 1 Jan 2020 : - | 1 Jan 0 0:0 -0000 | : : : : :"
    ),
    *listed(
        "1-Jan-2020 0:0 x | , , , , , | 1 Jan 0000 00:00:00 GMT | Thu, 01 Jan 1970 00:00:00 -0000"
    ),
    *listed(r"\xd9\xa3 Jan \xd9\xa2\xd9\xa0\xd9\xa2\xd9\xa0 10:00:00 GMT | \xff"),
    b"1 Jan " + b"9" * 4400 + b" 10:00 GMT",
)
TAGS = (
    *listed(
        r"* | \x22x\x22 | W/\x22x\x22 | \x22 || , | , , | \x22a\x22, \x22b\x22 | W/ | x | \xff"
    ),
    b'"a"' * 2000,
)
ACCEPTED = (*listed(r"text/html | */* || text/html;q=x | \xff"), b"text/html," * 800)

# By the name of the field; the order means nothing.
VALUES: dict[bytes, Sequence[bytes]] = {
    b"Tus-Resumable": VERSIONS_OF_TUS,
    b"Upload-Offset": NUMBERS,
    b"Upload-Length": NUMBERS,
    b"Upload-Defer-Length": NUMBERS,
    b"Upload-Metadata": METADATA,
    b"Upload-Checksum": CHECKSUMS,
    b"X-HTTP-Method-Override": OVERRIDES,
    b"Content-Length": NUMBERS,
    b"Content-Type": TYPES_OF_BODIES,
    b"Content-Encoding": CONTENT_CODINGS,
    b"Transfer-Encoding": TRANSFER_CODINGS,
    b"Expect": EXPECTATIONS,
    b"Trailer": TRAILER_NAMES,
    b"TE": listed("trailers || gzip"),
    b"Connection": CONNECTIONS,
    b"Upgrade": listed(r"websocket | WebSocket | h2c | TLS/1.0 | tcp | foo || \xff | a, b"),
    b"Keep-Alive": listed(r"timeout=5 || timeout=-1 | \xff"),
    b"Origin": ORIGINS,
    b"Host": HOSTS,
    b"Forwarded": FORWARDED,
    b"X-Forwarded-Host": FORWARDED_HOSTS,
    b"X-Forwarded-Proto": FORWARDED_PROTOCOLS,
    b"X-Forwarded-For": listed(r"1.2.3.4 || \xff"),
    b"Range": RANGES,
    b"If-Range": (*DATES, *TAGS),
    b"If-Match": TAGS,
    b"If-None-Match": TAGS,
    b"If-Modified-Since": DATES,
    b"If-Unmodified-Since": DATES,
    b"Accept": ACCEPTED,
    b"Access-Control-Request-Method": METHODS,
    b"Access-Control-Request-Headers": (*listed(r"tus-resumable || \xff"), b"a," * 4000),
    b"Cookie": (*listed(r"a=b || =;=; | \xff=\xff | a=\x22\x5c"), b"a=b; " * 1500),
    b"Authorization": listed(r"Basic YQ== || Bearer \xff | Basic !"),
    b"User-Agent": TEXTS,
    b"Sec-WebSocket-Key": listed("x |"),
    b"Sec-WebSocket-Key1": listed("x"),
    b"HTTP2-Settings": listed("AAMAAABkAAQAAP__ |"),
    b"Content-Disposition": TEXTS,
    b"Content-Range": listed(r"bytes 0-4/5 | bytes */0 | \xff"),
    b"X-Request-ID": TEXTS,
}

# Names that are none, or nearly one of ours.
ODD_NAMES = (
    *listed(r"| \x20 | \x00 | \xff | a b | a:b | (a) | Upload-Offset\x20 | \x20Upload-Offset | ü"),
    *listed(
        r"Upload_Offset | Upload-Length\x00 | Content-Length\x20 | \x09X | Transfer-Encoding\x20"
    ),
    *listed(r"Transfer_Encoding | Tus-Resumable\x09 | Tus-Resumäble"),
    b"X" * 9000,
)

# Lines in the place of the first: where method, target and version are, in braces.
LINES = listed(
    r"{m}  {t} {v} | {m}\x09{t}\x09{v} | {m} {t} | {m} || \x0d\x0a{m} {t} {v} | {m} {t} {v} x"
    r"| {t} {m} {v} | \x20{m} {t} {v} | \x00{m} | \xff\xfe | {m} {t} x {v} | \x0a{m} {t} {v}"
)

# Size lines and trailers of bodies in chunks that are wrong, or nearly.
SIZE_LINES = (
    *listed(
        r"| 0x5 | -5 | +5 | \x205 | 5\x20 | 5\x09 | 5; | 5;a=b | 5;a=\x22\x0d\x0a\x22 | 5;\x0a | g | 5 5"
    ),
    *listed(r"0005 | 5\x0d | 5\x00 | \xd9\xa5 | 5;\xff | 7fffffffffffffff | 8000000000000000"),
    *(b"f" * 15, b"f" * 16, b"1" + b"0" * 16, b"0" * 300 + b"5", b"5;" + b"a" * 1100),
)
TRAILERS = (
    *listed(
        r"| X: y | Upload-Checksum: sha1 x | Upload-Checksum: | Upload-Checksum | : x | \x00: x | X : y"
    ),
    *listed(r"\x20X: y | Content-Length: 5 | Transfer-Encoding: gzip | X: \xff | X: a\x0aY: b"),
    *listed(r"Upload-Checksum: \xff | X: y\x0d\x0a folded"),
    b"Upload-Checksum: md5 " + b"A" * 22 + b"==",
    b"X: " + b"a" * 9000,
    b"\r\n".join([b"X: y"] * 900),
)

# Behind the URL of an upload, behind the prefix, and anywhere.
TAILS = listed(
    r"/ | // | /. | /.. | .info | .lock | %00 | %2f | ?x=y | #x | ;v=1 | ? | # | \x00 | \xff | \x09 | %"
    r"| %zz | %u0041 | \x20 | \x5c | 0 | %0d%0aX-Injected:%20yes | %c3%bc"
)
BELOW = (
    *listed(
        r"| / | .. | ../.. | . | %2e%2e | %2e%2e/ | ..%5c.. | ../canary | ..%2fcanary | {upload_id}"
    ),
    *listed(
        r"%252e%252e%252fcanary | .lock | .locks | expiry | waiting | 00 | ff/ | ü | \xfc | %ff"
    ),
    *(b"../" * depth + b"etc/passwd" for depth in (1, 3, 9)),
    *(b"..%2f" * depth + b"etc%2fpasswd" for depth in (1, 3, 9)),
    *(b"a" * size for size in (1, 64, 65, 300, 4096, 8000, 8190, 70_000)),
)
ELSEWHERE = listed(
    r"| / | // | ? | # | .. | * | files | http: | HTTP:// | /favicon.ico | /\xff | /% | \x7f | ftp://x/y"
    r"| http://h:-1/"
)
ORIGINS_OF_TARGETS = listed(
    "http://localhost | http://evil.example:99999 | http://u:p@h | http:// | https://[::1 | //evil.example"
)

# In the place of Upload-Concat; {u} is the URL of an upload.
CONCATS = (
    *listed(
        r"partial | Partial | partial; | partial {u} | final | final; | final;\x20 || ; | FINAL;{u}"
    ),
    *listed(
        r"final {u} | final;;{u} | final;{u}; | final; {u} | final;{u}\x20 | final;{u}  {u} | final;,"
    ),
    *listed(
        r"final;{u}\x09{u} | final;{u},{u} | final;\xff | final;\x00 | final;. | final;.. | final;ü"
    ),
    *listed(
        "final;/etc/passwd | final;/files/../../etc/passwd | final;file:///etc/passwd | final;?"
    ),
    *listed(
        "final;{u}.info | final;{u}/ | final;{u}/.. | final;{u}?x | final;{u}#x | final;{u}%00"
    ),
    *listed(
        "final;{u}%2f.. | final;http://[::1{u} | final;http://[ | final;// | final;http:// | final;%"
    ),
    *listed(
        r"final;http://evil.example:99999{u} | final;HTTPS://u:p@h{u} | final;%ff | final;\x5c"
    ),
    *(b"final;" + b"a" * size for size in (64, 65)),
    *(b"final;" + b" ".join([b"{u}"] * times) for times in (2, 50, 150)),
    *(b"final;" + b"a " * 2000 + b"a", b"final;{u} /files/" + b"0" * 32),
)


def metadata_of_a_download(chance: random.Random) -> bytes:
    """With a file name and a type that are no good in a header."""
    pairs = ((b"filename", chance.choice(NAMES)), (b"filetype", chance.choice(TYPES)))
    return b",".join(name + b" " + base64.b64encode(value) for name, value in pairs)


def path(prefix: bytes, upload_id: bytes, chance: random.Random) -> bytes:
    """The target of a request that leads to nothing, or should."""
    here = prefix + b"/" + upload_id
    spelt = b"".join(b"%%%02x" % byte for byte in upload_id)
    kinds: Sequence[Sequence[bytes]] = (
        [here + tail for tail in TAILS],
        [prefix + b"/" + name for name in BELOW],
        [origin + here for origin in ORIGINS_OF_TARGETS],
        ELSEWHERE,
        [here[:-1], here.upper(), prefix, prefix.upper(), b"/" + prefix + b"/"],
        [prefix + b"/" + spelt, prefix + b"//" + upload_id, b"/%66iles/" + upload_id],
    )
    return chance.choice(chance.choices(kinds, [6, 6, 3, 3, 2, 2])[0])


def line(method: bytes, target: bytes, version: bytes, chance: random.Random) -> bytes:
    shape = chance.choice(LINES)
    return shape.replace(b"{m}", method).replace(b"{t}", target).replace(b"{v}", version)


def concat(url_of: Callable[[], bytes], chance: random.Random) -> bytes:
    """A value of Upload-Concat that is wrong, or nearly. ``url_of`` gives URLs of partials."""
    return chance.choice(CONCATS).replace(b"{u}", url_of())
