"""Who can reach the address that a process listens on, and the refusal to let everybody in there."""

from core.errors import SettingsInvalid
from core.listening.hosts import is_loopback
from core.settings import PREFIX, Settings


def refuse_unprotected(settings: Settings) -> None:
    """Refuse to run an API that would be reached by others while it asks for no key.

    Raises:
        SettingsInvalid: naming the ways out.
    """
    if settings.api_key is not None:
        return
    if not is_loopback(settings.host):
        raise SettingsInvalid(
            f"listening on {settings.host} needs an API key: set {PREFIX}API_KEY to one of at least 16 characters, "
            f"or {PREFIX}HOST to 127.0.0.1"
        )
    if settings.allowed_hosts:
        raise SettingsInvalid(
            f"{PREFIX}ALLOWED_HOSTS needs an API key: set {PREFIX}API_KEY too, or unset it, as without a key only "
            "localhost, 127.0.0.1 and [::1] are answered to"
        )


def refuse_unnamed(host: str, settings: Settings) -> None:
    """Refuse to run an engine that others are to reach, and that knows no name by which they may ask it.

    Raises:
        SettingsInvalid: naming the way out.
    """
    if not is_loopback(host) and not settings.allowed_hosts:
        raise SettingsInvalid(
            f"an engine that listens on {host} must know by which names it may be asked: set {PREFIX}ALLOWED_HOSTS to "
            f"the hosts of its addresses in the API's {PREFIX}ENGINE_URLS"
        )
