"""Where this machine reaches the API that the settings describe, and whether it is ready."""

import http.client
import ipaddress

from core.listening.hosts import bracketed
from core.settings import Settings

READY_REQUEST_S = 5.0


def is_ready(settings: Settings) -> bool:
    """Ask /readyz."""
    connection = http.client.HTTPConnection(openable_host(settings.host), settings.port, timeout=READY_REQUEST_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # not up yet
        return False
    finally:
        connection.close()


def openable_host(host: str) -> str:
    """Turn an address that means "all of them" into one that can be connected to."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host
    return host if not address.is_unspecified else ("127.0.0.1" if address.version == 4 else "::1")


def openable_url(settings: Settings) -> str:
    """Give the URL under which this machine reaches the API."""
    return f"http://{bracketed(openable_host(settings.host))}:{settings.port}"
