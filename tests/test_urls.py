from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotus_server.protocol.errors import PartialUnknown
from aiotus_server.protocol.uploads import UPLOAD_ID
from aiotus_server.urls import Mount, origin_of


@pytest.mark.parametrize(
    ("mount", "url"),
    [
        (Mount("/files"), "/files/a"),
        (Mount(""), "/a"),
        (Mount("/files", "https://x.org"), "https://x.org/files/a"),
        (Mount("/my%20files"), "/my%20files/a"),
        (Mount("/files", None, "https://x.org/up"), "https://x.org/up/a"),
        (Mount("/files", "http://inside", "https://x.org/up/"), "https://x.org/up/a"),
    ],
)
def test_upload_url(mount: Mount, url: str) -> None:
    assert mount.upload_url("a") == url
    assert mount.upload_id(url) == "a"


@pytest.mark.parametrize(
    "url",
    [
        "/files/a",
        "a",
        "./a",
        "../files/a",
        "files/a",
        "/files/../files/./a",
        "/files/%61",
        "http://localhost/files/a",
        "https://other.example:8443/files/a",
        "http://127.0.0.1:1080/files/a",
        "HTTP://x/files/a",
        "//x/files/a",
        "https://user:password@x/files/a",
    ],
)
def test_upload_id(url: str) -> None:
    """Scheme and host are ignored: clients list what they see from outside a proxy."""
    assert Mount("/files").upload_id(url) == "a"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "/files",
        "/files/",
        "/files/a/",
        "/files/a/b",
        "/files//a",
        "/files/a.info",
        "/files/..",
        "/files/../a",
        "/files/../../etc/passwd",
        "/files/%2e%2e/a",
        "/files/a%2fb",
        "/files/a%00",
        "/files/a%0a",
        "/files/é",
        "/files/" + "a" * 65,
        "/Files/a",
        "/filesa",
        "/other/a",
        "/prefix/files/a",
        "http://localhost/a",
        "http://[::1/files/a",
        "http://[",
        "file:///etc/passwd",
        "http://x\udcff/files/\udcff",
    ],
)
def test_a_url_that_is_not_an_upload_of_ours(url: str) -> None:
    with pytest.raises(PartialUnknown):
        Mount("/files").upload_id(url)


@pytest.mark.parametrize(
    ("mount", "url"),
    [
        (Mount("/inside", public_prefixes=("/outside",)), "/outside/a"),
        (Mount("/inside", public_prefixes=("/outside/",)), "https://x.org/outside/a"),
        (Mount("/inside", public_prefixes=("/outside",)), "/inside/a"),
        (Mount("/inside", public_prefixes=("/one", "/two")), "/two/a"),
        (Mount("/inside", None, "https://x.org/outside"), "https://y.org/outside/a"),
        (Mount("/inside", None, "https://x.org"), "https://x.org/a"),
        (Mount("/inside", None, "https://x.org/my%20files"), "https://x.org/my%20files/a"),
        (Mount("/inside", None, "https://x.org/my%20files/"), "/my%20files/a"),
        (Mount("/my%20files"), "/my%20files/a"),
        (Mount("/my%20files"), "a"),
    ],
)
def test_prefixes_that_a_proxy_rewrites(mount: Mount, url: str) -> None:
    assert mount.upload_id(url) == "a"


def test_only_the_prefixes_that_were_given() -> None:
    with pytest.raises(PartialUnknown):
        Mount("/inside", public_prefixes=("/outside",)).upload_id("/elsewhere/a")


@given(st.text(max_size=40) | st.text("/.%:[]@?#;a2eEfF\\ ", max_size=30))
def test_any_url_gives_an_id_or_partial_unknown(url: str) -> None:
    for text in (url, f"/files/{url}", f"http://{url}"):
        try:
            upload_id = Mount("/files").upload_id(text)
        except PartialUnknown:
            continue
        assert UPLOAD_ID.fullmatch(upload_id)


@given(st.from_regex(UPLOAD_ID, fullmatch=True))
def test_every_id_round_trips(upload_id: str) -> None:
    for mount in (Mount("/files"), Mount("", "https://x.org"), Mount("/a/b", None, "http://x/y")):
        assert mount.upload_id(mount.upload_url(upload_id)) == upload_id


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("http", "localhost", "http://localhost"),
        ("https", "x.org:8443", "https://x.org:8443"),
        ("http", "[::1]:1080", "http://[::1]:1080"),
        ("ftp", "x.org", None),
        ("javascript", "x.org", None),
        ("", "x.org", None),
        ("http", "", None),
        ("http", "x.org/evil", None),
        ("http", "user@x.org", None),
        ("http", "x.org\r\nX: y", None),
        ("http", "x org", None),
        ("http", "é.org", None),
        ("http", '"x"', None),
    ],
)
def test_origin(scheme: str, host: str, origin: str | None) -> None:
    assert origin_of(scheme, host) == origin
