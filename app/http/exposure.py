"""Who can reach the address that the API listens on, and the refusal to let everybody in there."""

import ipaddress

from core.errors import SettingsInvalid
from core.settings import PREFIX, Settings


def refuse_unprotected(settings: Settings) -> None:
    """Refuse to listen where other machines reach us while no API key is asked for.

    Raises:
        SettingsInvalid: naming both ways out.
    """
    if settings.api_key is None and not is_loopback(settings.host):
        raise SettingsInvalid(
            f"listening on {settings.host} needs an API key: set {PREFIX}API_KEY to one of at least 16 characters, "
            f"or {PREFIX}HOST to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address; of names, only ``localhost`` is trusted to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
