"""Which requests are let in, by what a browser cannot forge: the host that they name and the page that sends them.

A page of any site may send requests to this machine, and by DNS rebinding under a host of its own even read the
answers. It can choose neither ``Host`` nor ``Origin`` nor ``Sec-Fetch-Site``. Who is asking is another matter: keys.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from core.errors import HostNotAllowed, InvalidInput, OriginNotAllowed, SettingsInvalid
from core.listening.hosts import LOOPBACK_NAMES, Authority, Origin, bracketed
from core.settings import PREFIX, Settings

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})  # none: a person typed the address
_LOOPBACK_ONLY: Final = (
    f"without an API key it answers only to localhost, 127.0.0.1 and [::1]; set {PREFIX}API_KEY to be asked by other "
    f"names, and {PREFIX}ALLOWED_HOSTS to say by which"
)
_NAMED_ONLY: Final = f"name it in {PREFIX}ALLOWED_HOSTS, or ask for localhost on this machine"


class OriginGuard:
    """Lets requests in or refuses them, by their head alone."""

    def __init__(self, hosts: frozenset[str] | None, remedy: str, origins: frozenset[Origin] = frozenset()) -> None:
        """Let in what asks for one of the hosts, None for any, and pages of these origins beside our own.

        ``remedy`` ends the sentence that refuses a host.
        """
        self.origins = origins
        self._hosts = hosts
        self._remedy = remedy

    @classmethod
    def of_api(cls, settings: Settings) -> Self:
        """Give the API's: without a key only this machine's names, with one those of the settings, or any.

        Raises:
            SettingsInvalid: a host or an origin of the settings is malformed.
        """
        origins = frozenset(map(_origin, settings.cors_origins))
        if settings.api_key is not None and not settings.allowed_hosts:
            return cls(None, "", origins)
        named = () if settings.api_key is None else settings.allowed_hosts
        remedy = _LOOPBACK_ONLY if settings.api_key is None else _NAMED_ONLY
        return cls(_hosts(settings.host, named), remedy, origins)

    @classmethod
    def of_engine(cls, host: str, settings: Settings) -> Self:
        """Give that of an engine that listens on TCP: it has no key, and no page asks it.

        Raises:
            SettingsInvalid: a host of the settings is malformed.
        """
        return cls(_hosts(host, settings.allowed_hosts), _NAMED_ONLY)

    def check(self, scope: Mapping[str, Any]) -> None:
        """Look at an ASGI scope of type ``http``.

        Raises:
            InvalidInput: the request's target is not a path of this server.
            HostNotAllowed: it asks for a host that we do not answer to.
            OriginNotAllowed: it would change something, and comes from a page that is not ours.
        """
        # An absolute target (RFC 9112, 3.2.2) would stand in the place of Host; only clients of a proxy send one.
        if not scope["path"].startswith("/"):
            raise InvalidInput("the request's target must be a path that begins with /, as this is no proxy")
        host = self._check_host(_values(scope, b"host"))
        if scope["method"] not in _SAFE_METHODS and not _carries_bearer_key(scope):
            self._check_origin(host, _values(scope, b"origin"), _values(scope, b"sec-fetch-site"))

    def _check_host(self, values: list[bytes]) -> Authority | None:
        host = Authority.parse(values[0].decode("latin-1")) if len(values) == 1 else None
        if self._hosts is not None and (host is None or host.name not in self._hosts):
            raise HostNotAllowed(_shown(values), self._remedy)
        return host

    def _check_origin(self, host: Authority | None, values: list[bytes], sites: list[bytes]) -> None:
        origins = [Origin.parse(value.decode("latin-1")) for value in values]
        if len(origins) == 1 and origins[0] in self.origins:
            return
        is_own = all(origin and host and origin.is_of(host) for origin in origins)
        if not is_own or any(site not in _OWN_SITES for site in sites):
            raise OriginNotAllowed(_shown(values))


def _hosts(listening_on: str, named: Iterable[str]) -> frozenset[str]:
    """Give the names to answer to: the machine's own, the address listened on, and those of the settings."""
    own = Authority.parse(bracketed(listening_on))
    return frozenset({*LOOPBACK_NAMES, *(() if own is None else (own.name,)), *map(_host_name, named)})


def _host_name(text: str) -> str:
    host = Authority.parse(text)
    if host is None or host.port is not None:
        raise SettingsInvalid(
            f"{PREFIX}ALLOWED_HOSTS: {text!r} is not a host; write its name or address alone, as in "
            "loramill.example.org"
        )
    return host.name


def _origin(text: str) -> Origin:
    origin = Origin.parse(text)
    if origin is None:
        raise SettingsInvalid(
            f"{PREFIX}CORS_ORIGINS: {text!r} is not an origin; write scheme, host and port alone, as in "
            "https://app.example.org"
        )
    return origin


def _values(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _carries_bearer_key(scope: Mapping[str, Any]) -> bool:
    """Tell whether a key is sent, right or wrong: a browser lets no foreign page add one unless we said so to it."""
    return any(value[:7].lower() == b"bearer " for value in _values(scope, b"authorization"))


def _shown(values: list[bytes]) -> str:
    return ", ".join(value.decode("latin-1") for value in values)[:200]
