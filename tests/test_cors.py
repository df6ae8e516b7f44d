from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aiotus_server import Cors
from aiotus_server.cors import REQUEST_HEADERS, RESPONSE_HEADERS

PAGE = "https://app.example"
OTHER = "https://evil.example"
ALLOW, CREDENTIALS = "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"


def names(text: str) -> set[str]:
    return {name.strip().lower() for name in text.split(",")}


@pytest.mark.parametrize("preflight", [True, False])
@pytest.mark.parametrize(
    ("cors", "origin", "allowed", "varies"),
    [
        (Cors(), PAGE, "*", False),
        (Cors(), "null", "*", False),
        (Cors(), None, None, False),
        (Cors(origins=[PAGE]), PAGE, PAGE, True),
        (Cors(origins=[PAGE, OTHER]), OTHER, OTHER, True),
        (Cors(origins={"https://shops.example:8443"}), "https://shops.example:8443", ..., True),
        (Cors(origins=["null"]), "null", "null", True),
        (Cors(origins=[PAGE]), OTHER, None, True),
        (Cors(origins=[PAGE]), PAGE.upper(), None, True),
        (Cors(origins=[PAGE]), PAGE + ".evil", None, True),
        (Cors(origins=[PAGE]), "null", None, True),
        (Cors(origins=[PAGE]), None, None, True),
        (Cors(origins=[]), PAGE, None, True),
    ],
)
def test_who_is_allowed(
    cors: Cors, origin: str | None, allowed: Any, varies: bool, preflight: bool
) -> None:
    headers = cors.headers(origin, preflight=preflight)
    assert headers.get(ALLOW) == (origin if allowed is ... else allowed)
    assert (headers.get("Vary") == "Origin") is varies
    if allowed is None:
        assert not any(name.startswith("Access-Control") for name in headers)


def test_credentials() -> None:
    assert CREDENTIALS not in Cors(origins=[PAGE]).headers(PAGE, preflight=False)
    cors = Cors(origins=[PAGE], credentials=True)
    for preflight in (True, False):
        assert cors.headers(PAGE, preflight=preflight)[CREDENTIALS] == "true"
        assert CREDENTIALS not in cors.headers(OTHER, preflight=preflight)


def test_preflight() -> None:
    headers = Cors(max_age=timedelta(hours=1)).headers(PAGE, preflight=True)
    methods = names(headers["Access-Control-Allow-Methods"])
    assert methods >= {"post", "head", "patch", "delete", "get"}
    assert headers["Access-Control-Max-Age"] == "3600"
    assert names(headers["Access-Control-Allow-Headers"]) >= {
        "authorization",
        "content-type",
        "tus-resumable",
        "upload-checksum",
        "upload-concat",
        "upload-defer-length",
        "upload-length",
        "upload-metadata",
        "upload-offset",
        "x-http-method-override",
        "x-request-id",
        "x-requested-with",
    }


def test_other_answers_are_no_preflights() -> None:
    headers = Cors().headers(PAGE, preflight=False)
    assert not headers.keys() & {
        "Access-Control-Allow-Methods",
        "Access-Control-Allow-Headers",
        "Access-Control-Max-Age",
    }


def test_a_page_may_read_every_header_of_ours() -> None:
    exposed = names(Cors().headers(PAGE, preflight=False)["Access-Control-Expose-Headers"])
    assert exposed >= {
        "location",
        "retry-after",
        "tus-checksum-algorithm",
        "tus-extension",
        "tus-max-size",
        "tus-resumable",
        "tus-version",
        "upload-concat",
        "upload-defer-length",
        "upload-expires",
        "upload-length",
        "upload-metadata",
        "upload-offset",
    }


def test_a_time_is_no_number() -> None:
    with pytest.raises(TypeError, match="max_age must be a timedelta, not 3"):
        Cors(max_age=3)  # type: ignore[arg-type]


def test_further_names() -> None:
    cors = Cors(allow_headers=["X-Mine"], expose_headers=("X-Yours",))
    allowed = names(cors.headers(PAGE, preflight=True)["Access-Control-Allow-Headers"])
    assert allowed == {name.lower() for name in (*REQUEST_HEADERS, "X-Mine")}
    exposed = names(cors.headers(PAGE, preflight=False)["Access-Control-Expose-Headers"])
    assert exposed == {name.lower() for name in (*RESPONSE_HEADERS, "X-Yours")}


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"origins": PAGE}, "origins"),
        ({"credentials": True}, "credentials"),
        ({"allow_headers": "X-Mine"}, "allow_headers"),
        ({"expose_headers": "X-Mine"}, "expose_headers"),
        ({"allow_headers": ["X A"]}, "'X A' cannot be the name of a header"),
        ({"expose_headers": ["X\r\nA: b"]}, "cannot be the name of a header"),
        ({"max_age": timedelta(days=-1)}, "max_age"),
        ({"origins": ["https://a b"]}, "'https://a b' is no origin"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        Cors(**arguments)
