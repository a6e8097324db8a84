"""What trials have decided, remembered from one start of an engine to the next: a small JSON file for each key.

A key names all that the decisions depend on: machine, model, versions, settings. What they mean is not known here.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from core.values import Frozen

logger = logging.getLogger(__name__)

FORMAT: Final = 1
LONGEST_BYTES: Final = 2**16
_FOREIGN_MODE: Final = 0o022  # others may write


class _Remembered(Frozen):
    """The file."""

    format: int
    key: dict[str, str]
    decisions: dict[str, Any]


class _NotTrusted(Exception):
    """Why a file is not read."""


class TuningMemory:
    """The decisions under one key; a file that is damaged, or not ours, is left out of account with a line in the log.

    Several processes may use one folder at once: the last to write is remembered.
    """

    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        self._key = dict(key)
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest}.json"

    def read(self) -> dict[str, Any]:
        """Give the decisions by name, as JSON has them; none where nothing is remembered."""
        try:
            content = _Remembered.model_validate_json(self._read())
            if content.format != FORMAT or content.key != self._key:
                raise _NotTrusted("it is of another format or for another key")
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError, _NotTrusted) as reason:
            said = "it is damaged" if isinstance(reason, ValidationError) else reason
            logger.warning("What %s remembers of trials is not used, they are made again: %s", self.path, said)
            return {}
        return content.decisions

    def write(self, decisions: Mapping[str, Any]) -> None:
        """Remember these and no others; where that cannot be done, a line in the log says so."""
        content = _Remembered(format=FORMAT, key=self._key, decisions=dict(decisions))
        partial: Path | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # for our eyes only, as mkstemp makes it
            number, name = tempfile.mkstemp(dir=self.path.parent, prefix=".partial-")
            partial = Path(name)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(content.model_dump_json(indent=1) + "\n")
            partial.replace(self.path)
        except OSError as reason:
            logger.warning("What trials decided cannot be remembered in %s, the next start makes them again: %s",
                           self.path.parent, reason)  # fmt: skip
            if partial is not None:
                partial.unlink(missing_ok=True)

    def _read(self) -> bytes:
        with self.path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & _FOREIGN_MODE:
                raise _NotTrusted("others than this process's user can write it")
            content = file.read(LONGEST_BYTES + 1)
        if len(content) > LONGEST_BYTES:
            raise _NotTrusted(f"it is longer than {LONGEST_BYTES} bytes")
        return content
