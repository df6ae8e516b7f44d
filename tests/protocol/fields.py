"""Header fields for tests: few words, and any fields at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from aiotus_server.protocol.errors import TusError

if TYPE_CHECKING:
    from collections.abc import Callable

Fields = CIMultiDictProxy[str]


def fields(*pairs: tuple[str, str], **names: str) -> Fields:
    """Fields in order; in names given as keywords ``_`` stands for ``-``."""
    named = [(name.replace("_", "-"), value) for name, value in names.items()]
    return CIMultiDictProxy(CIMultiDict([*pairs, *named]))


# Values that mean something, and values that nearly do.
_values = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "0",
            "1",
            "5",
            " 5\t",
            "+5",
            "-1",
            "1_0",
            "٣",
            "5.0",
            "0x1",
            "1 0",
            str(2**63 - 1),
            str(2**63),
            "9" * 5000,
            "1.0.0",
            "application/offset+octet-stream",
            "Application/Offset+Octet-Stream; charset=x",
            "text/plain",
            "identity",
            "gzip",
            "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
            "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
            "sha1",
            "sha1 ",
            "none AAAA",
            "Upload-Checksum",
            "x, upload-checksum",
            "partial",
            "final;",
            "final;/files/a",
            "final;/files/a /files/b",
            "final;//[",
            "final;http://[::1/a",
            "final;\ud800",
            "filename d29ybGQ=,is_confidential",
            "key,key",
            "key not-base64",
            "PATCH",
            "DELETE",
            "bytes=0-1",
            "bytes=-0",
            "bytes=٣-",
            "W/*",
            '"etag"',
            "Wed, 25 Jun 2014 16:00:00 GMT",
            "Wed, 25 Jun 99999 16:00:00 GMT",
            "Wed, 25 Jun 99999999999999999999 16:00:00 GMT",
            "Wed, 25 Jun 2014 16:00:00 -0000",
            "Wed, 25 Jun 2014 16:00:00 +99999999999",
        ]
    ),
    # What aiohttp may hand over: bytes that were no UTF-8 come as surrogates.
    st.text(st.characters(blacklist_characters="\r\n\0"), max_size=30),
    st.binary(max_size=20).map(
        lambda data: data.translate(None, b"\r\n\0").decode("utf-8", "surrogateescape")
    ),
)

_names = st.sampled_from(
    [
        "Tus-Resumable",
        "Upload-Offset",
        "Upload-Length",
        "upload-length",
        "Upload-Defer-Length",
        "Upload-Metadata",
        "Upload-Checksum",
        "Upload-Concat",
        "Content-Type",
        "Content-Encoding",
        "Trailer",
        "X-HTTP-Method-Override",
        "Range",
        "If-Range",
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
    ]
)

any_fields = st.lists(st.tuples(_names, _values), max_size=8).map(lambda pairs: fields(*pairs))
any_text = _values


def check_outcome(parse: Callable[[], object]) -> None:
    """``parse`` gives a value or a TusError that can be told to a client, nothing else."""
    try:
        parse()
    except TusError as error:
        sentence, status = str(error), error.status
    else:
        return
    assert 400 <= status < 500
    assert sentence.isprintable()
