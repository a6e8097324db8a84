"""The base models' tokenizers and contexts as the API uses them: to show and count tokens, never to feed a model."""

from functools import lru_cache
from pathlib import Path

from core.base_models.registry import ImportedModel, folder_of, read_imported
from core.errors import BaseModelInvalid, BaseModelNotReady, ModelNotFound
from core.settings import Settings
from core.text.tokenizer import TextTokenizer


def tokenizer_of(settings: Settings, base_model: str) -> TextTokenizer:
    """Give the tokenizer of a base model that this deployment trains, read once.

    Raises:
        ModelNotFound: there is no such base model here.
        BaseModelNotReady: it is not imported yet, or its tokenizer cannot be read.
    """
    if base_model not in settings.base_models:
        raise ModelNotFound(base_model)
    folder = folder_of(settings.base_models_folder, base_model)
    try:
        return _load(folder, read_imported(folder).fingerprint)
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error


def imported_of(settings: Settings, base_model: str) -> ImportedModel:
    """Give what the import of a base model wrote down: its fingerprint, and how many tokens its context holds.

    Raises:
        BaseModelNotReady: it is not imported yet.
    """
    try:
        return read_imported(folder_of(settings.base_models_folder, base_model))
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error


@lru_cache(maxsize=4)
def _load(folder: Path, fingerprint: str) -> TextTokenizer:
    return TextTokenizer.from_folder(folder)  # a fingerprint that changes means another tokenizer
