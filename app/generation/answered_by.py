"""What an answer says of who gave it, on every wire: the model behind whatever name it was asked for by."""

from importlib.metadata import version
from typing import Final
from urllib.parse import quote

from app.models.service import ServedModel
from core.ids import new_id
from core.store.aliases.answer_ids import signed

_FINGERPRINT: Final = f"loramill-{version('loramill')}"
_DIGEST_CHARS: Final = 12


def headers_of(model: ServedModel) -> dict[str, str]:
    """Give the headers that name the base model, and the fine-tuned model where one answers."""
    names = {"x-model-id": model.base_model}
    if model.adapter is not None:
        names["x-adapter-id"] = model.name
    return {header: quote(name, safe="/:+@,= ") for header, name in names.items()}


def fingerprint_of(model: ServedModel) -> str:
    """Give what equal seeds can give other answers by: our version, and the adapter's digest where there is one."""
    return _FINGERPRINT if model.adapter is None else f"{_FINGERPRINT}-{model.adapter[:_DIGEST_CHARS]}"


def answer_id(prefix: str, model: ServedModel) -> str:
    """Give a fresh id of an answer; of one for an alias, one by which it can be rated."""
    plain = new_id(prefix)
    return plain if model.answers_for is None else signed(plain, model.answers_for, model.answer_key)
