from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server import Expiry, Options, Refuse
from aiotus_server.options import EXTENSIONS
from aiotus_server.protocol.checksum import algorithms

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"max_size": -1}, "max_size"),
        ({"reserve": -1}, "reserve"),
        ({"extensions": {"creation", "compression"}}, "compression"),
        ({"extensions": "creation"}, "extensions"),
        ({"algorithms": ("sha1", "sha3")}, "sha3"),
        ({"algorithms": ("md5",)}, "sha1"),
        ({"algorithms": ()}, "sha1"),
        ({"algorithms": "sha1"}, "algorithm"),
        ({"public_prefixes": "/files"}, "public_prefixes"),
        ({"read_timeout": timedelta(0)}, "read_timeout"),
        ({"lock_timeout": timedelta(seconds=-1)}, "lock_timeout"),
        ({"public_prefixes": ["files"]}, "'files'"),
        ({"progress_interval": timedelta(days=-1)}, "progress_interval"),
        ({"location": ""}, "location"),
        ({"location": "relative"}, "location"),
        ({"location": "/files"}, "location"),
        ({"location": "//x.org/files"}, "location"),
        ({"location": "ftp://x.org/files"}, "location"),
        ({"location": "javascript:alert(1)"}, "location"),
        ({"location": "https://"}, "location"),
        ({"location": "https://é.org/files"}, "location"),
        ({"location": "https://x.org/files\r\nX: y"}, "location"),
        ({"location": "https://x.org/my files"}, "location"),
        ({"location": "https://x.org/files?a=b"}, "location"),
        ({"location": "https://x.org/files#a"}, "location"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        Options(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_rate": 1.5}, "min_rate must be a whole number, not 1.5"),
        ({"max_bodies": True}, "max_bodies must be a whole number or None, not True"),
        ({"expiry": HOUR}, "expiry must be an Expiry or None, not datetime.timedelta"),
        ({"read_timeout": 60}, "read_timeout must be a timedelta, not 60"),
        ({"new_id": "x"}, "new_id must be a function, not 'x'"),
        ({"extensions": None}, "extensions must be a collection of texts, not None"),
        ({"algorithms": [1]}, "algorithms must be a collection of texts, not [1]"),
        ({"trust_forwarded": "no"}, "trust_forwarded must be True or False, not 'no'"),
        ({"terminate_complete": 1}, "terminate_complete must be True or False, not 1"),
    ],
)
def test_a_wrong_type_is_told_with_the_right_one(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        Options(**arguments)


def test_a_refusal_begins_with_its_status() -> None:
    with pytest.raises(TypeError, match="status first"):
        Refuse("no")  # type: ignore[arg-type]


def test_a_refusal_has_a_text() -> None:
    with pytest.raises(TypeError, match="text or bytes, not 3"):
        Refuse(403, 3)  # type: ignore[arg-type]


def test_an_expiry_slides_or_not() -> None:
    with pytest.raises(TypeError, match="sliding must be True or False"):
        Expiry(HOUR, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [timedelta(0), -HOUR])
def test_an_expiry_must_be_in_the_future(after: timedelta) -> None:
    with pytest.raises(ValueError, match="after"):
        Expiry(after)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_size": 0},
        {"max_size": 2**63},
        {"extensions": []},
        {"extensions": ["creation"]},
        {"extensions": EXTENSIONS - {"checksum"}, "algorithms": ("md5",)},
        {"algorithms": ("md5", "sha1")},
        {"location": "path"},
        {"location": "absolute"},
        {"location": "https://x.org"},
        {"location": "http://x.org:8080/files/"},
        {"progress_interval": timedelta(0)},
        {"cors": None},
    ],
)
def test_what_makes_sense(arguments: dict[str, Any]) -> None:
    Options(**arguments)


def test_options_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().max_size = 5  # type: ignore[misc]


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Options(5)  # type: ignore[call-arg]


def test_extensions_cannot_change_afterwards() -> None:
    chosen = {"creation"}
    options = Options(extensions=chosen)
    chosen.add("termination")
    assert options.extensions == {"creation"}


def offered(options: Options, *, trailers: bool = True, capable: Any = EXTENSIONS) -> Any:
    return options.offer(frozenset(capable), trailers=trailers).extensions


def test_all_is_offered_that_the_store_can_do() -> None:
    assert offered(Options(expiry=Expiry(HOUR))) == EXTENSIONS
    assert offered(Options(), capable={"creation", "termination"}) == {"creation", "termination"}
    assert offered(Options(), capable=set()) == set()


def test_expiration_is_offered_where_uploads_expire() -> None:
    assert offered(Options()) == EXTENSIONS - {"expiration"}


def test_trailers_are_offered_where_they_can_be_read() -> None:
    assert "checksum-trailer" not in offered(Options(), trailers=False)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        (
            "creation",
            {
                "creation",
                "creation-with-upload",
                "creation-defer-length",
                "concatenation",
                "concatenation-unfinished",
            },
        ),
        ("checksum", {"checksum", "checksum-trailer"}),
        ("concatenation", {"concatenation", "concatenation-unfinished"}),
        ("creation-with-upload", {"creation-with-upload"}),
        ("creation-defer-length", {"creation-defer-length"}),
        ("checksum-trailer", {"checksum-trailer"}),
        ("concatenation-unfinished", {"concatenation-unfinished"}),
        ("termination", {"termination"}),
        ("expiration", {"expiration"}),
    ],
)
def test_dependent_extensions_go_with_their_base(off: str, gone: set[str]) -> None:
    options = Options(extensions=EXTENSIONS - {off}, expiry=Expiry(HOUR))
    assert offered(options) == EXTENSIONS - gone
    everything = Options(expiry=Expiry(HOUR))
    assert offered(everything, capable=EXTENSIONS - {off}) == EXTENSIONS - gone


subsets = st.frozensets(st.sampled_from(sorted(EXTENSIONS)))


@given(subsets, subsets, st.booleans(), st.booleans())
def test_nothing_is_offered_without_its_base(
    switched_on: frozenset[str], capable: frozenset[str], expires: bool, trailers: bool
) -> None:
    options = Options(extensions=switched_on, expiry=Expiry(HOUR) if expires else None)
    extensions = offered(options, trailers=trailers, capable=capable)
    assert extensions <= switched_on & capable
    if any(re.match("creation-|concatenation", extension) for extension in extensions):
        assert "creation" in extensions
    assert ("checksum-trailer" in extensions) <= ("checksum" in extensions)
    assert ("concatenation-unfinished" in extensions) <= ("concatenation" in extensions)


def test_the_offer_has_the_algorithms_and_the_lenience() -> None:
    assert Options().offer(EXTENSIONS, trailers=True).algorithms == algorithms()
    chosen = Options(algorithms=("sha1", "md5"), lenient_metadata=True)
    offer = chosen.offer(EXTENSIONS, trailers=True)
    assert (offer.algorithms, offer.lenient_metadata) == (("sha1", "md5"), True)
