"""What official clients are tested against: a deployment on a socket, whatever answers behind it."""

from dataclasses import dataclass
from typing import Any, Final

PROMPT: Final = "Frage 1: "
# Few answers follow it, and an engine bounds the white space in them, so that even a model that knows nothing, and
# has one token a byte, gives one of them within so many tokens.
JSON_TOKENS: Final = 200
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["one", "two"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class LiveApi:
    """A deployment with one base model and a model that was fine-tuned from it."""

    url: str
    api_key: str
    base: str
    tuned: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}
