"""Hosts and origins, compared whole."""

import pytest

from core.listening.hosts import Authority, Origin

LONG = "a" * 70_000


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost:8000", "localhost", 8000),
        ("localhost:", "localhost", None),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]", "[::1]", None),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]", 80),
        ("[2001:DB8::1]", "[2001:db8::1]", None),
        ("my_engine:8100", "my_engine", 8100),
        ("localhost.", "localhost.", None),  # another name; nobody answers to it unless it is named
    ],
)
def test_an_authority_is_a_lower_case_name_and_a_port(text: str, name: str, port: int | None) -> None:
    assert Authority.parse(text) == Authority(name, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8000",
        "user@localhost",
        "localhost:80:80",
        "localhost:65536",
        "localhost:8o",
        "localhost:-1",
        "localhost:٣",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost/",
        "localhost#",
        "http://localhost",
        "::1",
        "[::1",
        "[::1]x",
        "[::1%lo]",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[v1.fe80]",
        " localhost",
        "localhost\n",
        "lоcalhost",  # a Cyrillic o
        f"{LONG}@localhost",
    ],
)
def test_what_is_no_authority_is_none(text: str) -> None:
    assert Authority.parse(text) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("HTTPS://App.Example.org", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://[::1]", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_do(text: str, written: str) -> None:
    assert str(Origin.parse(text)) == written


@pytest.mark.parametrize(
    "text",
    ["", "null", "*", "localhost", "file://", "http://", "http://a/", "http://u@a", "http://a, http://b", "ftp://a"],
)
def test_what_is_no_origin_of_the_web_is_none(text: str) -> None:
    assert Origin.parse(text) is None


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://localhost", "localhost:80", True),
        ("https://loramill.example.org", "loramill.example.org", True),  # behind a proxy that speaks TLS
        ("http://localhost:8001", "localhost:8000", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("http://localhost.evil.example:8000", "localhost:8000", False),
        ("https://loramill.example.org:8443", "loramill.example.org", False),
    ],
)
def test_a_page_is_our_own_if_the_host_that_it_asks_has_served_it(origin: str, host: str, is_own: bool) -> None:
    page, asked = Origin.parse(origin), Authority.parse(host)
    assert page is not None
    assert asked is not None
    assert page.is_of(asked) is is_own
