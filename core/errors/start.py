"""Errors for the person at the terminal."""

from core.errors.tree import ServiceError


class StartRefused(ServiceError):
    """A process or a command cannot do its work as things are; for the person at the terminal."""

    code = "start_refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class SettingsInvalid(StartRefused):
    """A setting is misspelt, malformed, or contradicts what was asked for."""

    code = "settings_invalid"
