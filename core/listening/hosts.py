"""Hosts and origins as clients name them, parsed and compared whole: a prefix or a suffix says nothing.

Knows no request and no setting; what is let in by them is ``core.listening.origin_guard``'s matter.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# No user, no path, no list, no zone; a name may hold an underscore, as those of containers do.
_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_LAST_PORT: Final = 65535


@dataclass(frozen=True)
class Authority:
    """A host and the port beside it, as in a Host header: ``host [":" port]`` of RFC 3986, section 3.2."""

    name: str  # lower case; an IPv6 address in brackets and in its shortest form
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read an authority; None if it is not one, or names a user."""
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            return None
        name, port = match[1].lower(), int(match[2]) if match[2] else None
        if port is not None and port > _LAST_PORT:
            return None
        if name.startswith("["):
            try:
                name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
            except ValueError:
                return None
        return cls(name, port)

    def on(self, scheme: str) -> Self:
        """Give the same with the scheme's own port where none is named."""
        return self if self.port is not None else type(self)(self.name, _DEFAULT_PORTS[scheme])


@dataclass(frozen=True)
class Origin:
    """Where a page comes from: ``scheme "://" host [":" port]`` of RFC 6454. ``null`` is no origin."""

    scheme: str
    authority: Authority

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read an origin of the web; None if it is not one, or has more than an origin has."""
        match = _ORIGIN.fullmatch(text)
        authority = Authority.parse(match[2]) if match else None
        if match is None or authority is None:
            return None
        scheme = match[1].lower()
        return cls(scheme, authority.on(scheme))

    def __str__(self) -> str:
        """Write it as browsers do."""
        default = self.authority.port == _DEFAULT_PORTS[self.scheme]
        return f"{self.scheme}://{self.authority.name}" + ("" if default else f":{self.authority.port}")

    def is_of(self, host: Authority) -> bool:
        """Tell whether a page from here was served by the host that it now asks.

        The scheme is left out: behind a proxy that speaks TLS only the browser knows it.
        """
        return self.authority == host.on(self.scheme)


def bracketed(host: str) -> str:
    """Write an address to listen on, or a name, as a Host header would."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address; of names, only ``localhost`` is trusted to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
