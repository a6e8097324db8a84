"""What is let in, by the head of a request: hosts, origins, and what browsers say of a page's site."""

from typing import Any

import pytest
from pydantic import SecretStr

from core.errors import HostNotAllowed, InvalidInput, OriginNotAllowed, SettingsInvalid
from core.listening.origin_guard import OriginGuard
from core.settings import Settings

KEY = SecretStr("k" * 16)
HOST = b"127.0.0.1:8000"


def request(*headers: tuple[str, bytes], method: str = "GET", path: str = "/v1/models") -> dict[str, Any]:
    raw = [(name.encode(), value) for name, value in headers]
    return {"type": "http", "method": method, "path": path, "headers": raw}


def api(**settings: Any) -> OriginGuard:
    return OriginGuard.of_api(Settings(**settings))


def is_refused(guard: OriginGuard, scope: dict[str, Any], refusal: type[Exception]) -> bool:
    try:
        guard.check(scope)
    except refusal:
        return True
    return False


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:8000", b"127.0.0.1", b"127.0.0.1:1", b"[::1]:8000", b"[0:0:0:0:0:0:0:1]"]
)
def test_without_a_key_this_machines_names_are_answered_to(host: bytes) -> None:
    api().check(request(("host", host)))


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"evil.example:8000",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example",
        b"evil-localhost",
        b"localhost.",
        b"127.0.0.2",
        b"127.1",
        b"2130706433",
        b"0x7f000001",
        b"0.0.0.0:8000",
        b"[::]",
        b"[::ffff:127.0.0.1]",
        b"user@localhost",
        b"localhost@evil.example",
        b"localhost, evil.example",
        b"localhost\xe9",
        b"\xff",
    ],
)
def test_without_a_key_no_other_host_is_answered_to(host: bytes) -> None:
    with pytest.raises(HostNotAllowed, match="LORAMILL_ALLOWED_HOSTS") as refusal:
        api().check(request(("host", host)))
    assert repr(host.decode("latin-1")) in str(refusal.value)


@pytest.mark.parametrize("hosts", [(), (b"localhost", b"evil.example"), (b"localhost", b"localhost")])
def test_a_host_that_is_missing_or_stands_twice_is_refused(hosts: tuple[bytes, ...]) -> None:
    with pytest.raises(HostNotAllowed):
        api().check(request(*(("host", host) for host in hosts)))


def test_the_loopback_address_that_is_listened_on_is_answered_to() -> None:
    api(host="127.0.0.9").check(request(("host", b"127.0.0.9:8000")))
    api(host="::1").check(request(("host", b"[::1]:8000")))


def test_with_a_key_any_host_is_answered_to_until_hosts_are_named() -> None:
    for headers in ([("host", b"evil.example")], []):
        api(api_key=KEY).check(request(*headers))
    named = api(api_key=KEY, host="192.168.1.5", allowed_hosts="loramill.example.org, [2001:db8::1]")
    for host in (b"loramill.example.org:443", b"[2001:DB8:0::1]", b"localhost:8000", b"192.168.1.5:8000"):
        named.check(request(("host", host)))
    for host in (b"evil.example", b"sub.loramill.example.org", b"loramill.example.org.evil.example"):
        with pytest.raises(HostNotAllowed, match="name it in LORAMILL_ALLOWED_HOSTS"):
            named.check(request(("host", host)))


@pytest.mark.parametrize("host", ["https://a.example", "a.example:80", "*.example", "a.example/", "", "a b"])
def test_a_malformed_host_of_the_settings_stops_the_start(host: str) -> None:
    with pytest.raises(SettingsInvalid, match="LORAMILL_ALLOWED_HOSTS"):
        OriginGuard.of_api(Settings(api_key=KEY, allowed_hosts=(host,)))


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "*", "null", "https://*.a.example"])
def test_a_malformed_origin_of_the_settings_stops_the_start(origin: str) -> None:
    with pytest.raises(SettingsInvalid, match="LORAMILL_CORS_ORIGINS"):
        api(cors_origins=origin)


def test_an_engine_answers_to_what_it_listens_on_and_to_the_hosts_that_are_named() -> None:
    guard = OriginGuard.of_engine("0.0.0.0", Settings(allowed_hosts=("engine",)))
    for host in (b"engine:8100", b"127.0.0.1:8100"):
        guard.check(request(("host", host)))
    with pytest.raises(HostNotAllowed, match="LORAMILL_ALLOWED_HOSTS"):
        guard.check(request(("host", b"evil.example")))


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:8000/v1/models", "http://evil.example/", "*", "evil.example:80", ""]
)
def test_a_target_that_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="must be a path"):
        api(api_key=KEY).check(request(("host", HOST), path=path))


FOREIGN = [
    [("origin", b"https://evil.example")],
    [("origin", b"null")],
    [("origin", b"http://127.0.0.1:8001")],
    [("origin", b"http://localhost:8000")],
    [("origin", b"http://127.0.0.1.evil.example:8000")],
    [("origin", b"")],
    [("origin", b"http://127.0.0.1:8000"), ("origin", b"https://evil.example")],
    [("sec-fetch-site", b"cross-site")],
    [("sec-fetch-site", b"same-site")],
    [("sec-fetch-site", b"")],
    [("sec-fetch-site", b"same-origin"), ("sec-fetch-site", b"cross-site")],
    [("origin", b"http://127.0.0.1:8000"), ("sec-fetch-site", b"cross-site")],
    [("origin", b"https://evil.example"), ("sec-fetch-site", b"same-origin")],
    [("origin", b"https://evil.example"), ("authorization", b"Basic dTpw")],
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_a_foreign_page_may_change_nothing(headers: list[tuple[str, bytes]], method: str) -> None:
    with pytest.raises(OriginNotAllowed, match="LORAMILL_CORS_ORIGINS"):
        api().check(request(("host", HOST), *headers, method=method))


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_foreign_page_may_ask_what_it_cannot_read(headers: list[tuple[str, bytes]], method: str) -> None:
    api().check(request(("host", HOST), *headers, method=method))


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_request_that_carries_a_key_is_no_forgery(headers: list[tuple[str, bytes]]) -> None:
    api().check(request(("host", HOST), *headers, ("authorization", b"bearer unused"), method="POST"))


@pytest.mark.parametrize(
    "headers",
    [
        [],  # no browser
        [("origin", b"http://127.0.0.1:8000")],
        [("origin", b"http://127.0.0.1:8000"), ("sec-fetch-site", b"same-origin")],
        [("sec-fetch-site", b"none")],
    ],
)
def test_programs_and_our_own_pages_may_change_things(headers: list[tuple[str, bytes]]) -> None:
    api().check(request(("host", HOST), *headers, method="POST"))


def test_a_page_of_a_named_origin_may_change_things() -> None:
    guard = api(cors_origins="https://app.example.org,http://localhost:3000")
    site = ("sec-fetch-site", b"cross-site")
    guard.check(request(("host", HOST), ("origin", b"https://app.example.org"), site, method="POST"))
    for origin in (b"http://app.example.org", b"https://app.example.org.evil.example", b"https://app.example.org:8443"):
        assert is_refused(guard, request(("host", HOST), ("origin", origin), site, method="POST"), OriginNotAllowed)
