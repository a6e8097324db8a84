"""What a check needs beside this checkout, and what of it is missing here. Imports nothing of it."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

# distributions by the modules that they bring; others come with these
NEEDED: Final = {
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "pystache": "pystache",
    "orjson": "orjson",
}


def find_missing(modules: Iterable[str] = tuple(NEEDED)) -> list[str]:
    """List what of these cannot be imported here."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def pip_command(missing: Iterable[str]) -> str:
    """Give the command that installs the missing modules, in versions that the project allows."""
    return shlex.join(["python", "-m", "pip", "install", *(_requirement(NEEDED.get(name, name)) for name in missing)])


def _requirement(distribution: str) -> str:
    """Give a distribution with its versions as the project asks for it; without them where it does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return next((one for one in asked if re.split(r"[\[<>=!~ ]", one)[0] == distribution), distribution)
