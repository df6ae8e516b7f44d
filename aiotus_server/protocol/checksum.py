"""Checksum algorithms, and the Upload-Checksum field.

The digests of the CRCs and of the xxHash family are big-endian: the bytes that their
hexadecimal notation spells. So the crc32 of ``123456789``, CBF43926, travels as ``y/Q5Jg==``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import crc32c
import crcmod
import xxhash
from msgspec import Struct

from .errors import (
    ChecksumAlgorithmUnknown,
    ChecksumGivenTwice,
    ChecksumMalformed,
    HeaderRepeated,
)
from .headers import Fields, announces_checksum_trailer, parse_field

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


class Hasher(Protocol):
    """What ``hashlib``'s objects are: fed with the bytes as they pass, asked at the end.

    ``data`` is not to be kept: a memoryview's bytes change afterwards.
    """

    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Algorithm(Struct, frozen=True):
    """``name`` as in Tus-Checksum-Algorithm, ``digest_size`` in bytes."""

    name: str
    digest_size: int
    new: Callable[[], Hasher]


class Checksum(Struct, frozen=True):
    algorithm: str
    digest: bytes


class TrailingChecksum:
    """The checksum will come as a trailer, and only then say which algorithm it is."""


# What a request says about the checksum of its body.
Verification = Checksum | TrailingChecksum | None

_algorithms: dict[str, Algorithm] = {}
_none: Mapping[str, Hasher] = MappingProxyType({})


def register(name: str, digest_size: int, new: Callable[[], Hasher]) -> None:
    """Offer a further algorithm, or another implementation of one.

    ``name`` is lower-case ASCII without blanks and commas, ``new`` makes an object with
    ``update(data)`` and ``digest()``, ``digest_size`` is the length of its digest in bytes.
    Raises ValueError for a name that the protocol does not allow, and for digests of another
    length.
    """
    if not re.fullmatch(r"[!-+\--@\[-~]+", name):
        raise ValueError(f"{name!r} is not lower-case ASCII without blanks and commas")
    hasher = new()
    hasher.update(b"")
    if len(hasher.digest()) != digest_size:
        raise ValueError(f"digests of {name} have {len(hasher.digest())} bytes, not {digest_size}")
    _algorithms[name] = Algorithm(name, digest_size, new)


def algorithms() -> tuple[str, ...]:
    """The names of all that are registered, in the order of Tus-Checksum-Algorithm."""
    return tuple(_algorithms)


def algorithm(name: str) -> Algorithm:
    """Raises KeyError for a name that is not registered."""
    return _algorithms[name]


def hashers_for(verification: Verification, offered: Iterable[str]) -> Mapping[str, Hasher]:
    """The hashers that a body must feed so that its checksum can be told at its end."""
    if verification is None:
        return _none
    if isinstance(verification, Checksum):
        return {verification.algorithm: _algorithms[verification.algorithm].new()}
    return {name: _algorithms[name].new() for name in offered}


def parse_checksum(text: str, offered: Collection[str]) -> Checksum:
    """ "The name of the used checksum algorithm and the Base64 encoded checksum separated by a
    space."
    """
    name, space, encoded = text.partition(" ")
    if not space:
        raise ChecksumMalformed("it is not a name, a space and a digest")
    if name not in offered:
        raise ChecksumAlgorithmUnknown(offered)
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ChecksumMalformed("the digest is not Base64") from None
    if base64.b64encode(digest).decode() != encoded:
        raise ChecksumMalformed("the digest is not Base64 in its padded form")
    if len(digest) != _algorithms[name].digest_size:
        raise ChecksumMalformed(f"the digest is not as long as one of {name}")
    return Checksum(name, digest)


def parse_verification(fields: Fields, offered: Collection[str]) -> Verification:
    """What the header section says: a checksum, that one will follow, or nothing."""
    text = parse_field(fields, "Upload-Checksum")
    trailing = announces_checksum_trailer(fields)
    if text is None:
        return TrailingChecksum() if trailing else None
    if trailing:
        raise ChecksumGivenTwice
    return parse_checksum(text, offered)


def parse_checksum_trailer(
    trailers: Iterable[tuple[str, str]], offered: Collection[str]
) -> Checksum | None:
    """The Upload-Checksum among trailer fields; all others are of no interest."""
    values = [value for name, value in trailers if name.lower() == "upload-checksum"]
    if len(values) > 1:
        raise HeaderRepeated("Upload-Checksum")
    return parse_checksum(values[0].strip(" \t"), offered) if values else None


def format_checksum(checksum: Checksum) -> str:
    return f"{checksum.algorithm} {base64.b64encode(checksum.digest).decode()}"


class _Crc:
    """A CRC function as a hasher: ``step(data, crc)`` goes on from the value before."""

    __slots__ = ("_crc", "_size", "_step")

    def __init__(self, step: Callable[[bytes | memoryview, int], int], size: int) -> None:
        self._step = step
        self._size = size
        self._crc = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._crc = self._step(data, self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(self._size, "big")


# CRC-64/NVME, the one that S3 uses; crcmod wants the polynomial with its leading bit.
_crc64nvme: Callable[[bytes | memoryview, int], int] = crcmod.mkCrcFun(
    0x1_AD93_D235_94C9_3659, initCrc=0, rev=True, xorOut=0xFFFF_FFFF_FFFF_FFFF
)

# Without its C extension, which it leaves out in silence where there was no compiler, crcmod is
# 30 times slower, and holds the interpreter all the while.
try:
    import crcmod._crcfunext
except ImportError:
    SLOW: tuple[str, ...] = ("crc64nvme",)
else:
    SLOW = ()

# "The Server MUST support at least the SHA1 checksum algorithm identified by sha1."
register("sha1", 20, hashlib.sha1)
register("sha256", 32, hashlib.sha256)
register("sha512", 64, hashlib.sha512)
register("md5", 16, hashlib.md5)
register("blake2b", 64, hashlib.blake2b)
register("crc32", 4, lambda: _Crc(zlib.crc32, 4))
register("crc32c", 4, lambda: _Crc(crc32c.crc32c, 4))
register("xxh64", 8, xxhash.xxh64)
register("xxh3-64", 8, xxhash.xxh3_64)
register("xxh3-128", 16, xxhash.xxh3_128)
register("crc64nvme", 8, lambda: _Crc(_crc64nvme, 8))
