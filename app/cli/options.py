"""Options that several commands have, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from app.cli.client import Client

EXIT_FAILED: Final = 1
EXIT_MISUSE: Final = 2
EXIT_CANCELLED: Final = 3

Url = Annotated[str | None, typer.Option(help="Address of the API; left out: that of this machine's settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ExamplesFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File of examples.")]
BaseModelName = Annotated[str | None, typer.Option(help="Base model; left out: the first that is served.")]


def client_of(url: str | None) -> "Client":
    """Give a client of the API at an address, or of this machine's; with the key of this machine's settings."""
    from app.cli.client import Client
    from app.cli.config import read_settings
    from app.cli.stack.address import openable_url

    current = read_settings()
    key = current.api_key.get_secret_value() if current.api_key else None
    return Client(url or openable_url(current), key)
