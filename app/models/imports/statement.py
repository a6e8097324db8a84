"""What the sender of an adapter says of it, and the base model of this deployment that it is said to be of."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError

from app.http.field_types import StoredText, Suffix, read_prompt_format
from app.http.wire import Query, refusal_of
from app.tokenizers import imported_of, tokenizer_of
from core.base_models.registry import folder_of
from core.base_models.shape import read_shape
from core.errors import BaseModelInvalid, ImportRefused, InvalidParameter
from core.serving.strict_json import shown
from core.settings import Settings
from core.text.render_settings import PromptFormat
from core.text.tokenizer import TextTokenizer


def _read_raw(text: Any) -> Any:
    return text if text == "raw" else read_prompt_format(text)


class ImportFields(Query):
    """The form's fields beside the files.

    ``base_model`` and ``prompt_format`` have to be said of an adapter without a manifest: the JSON of the format's two
    templates, or "raw" where prompts are fed as they are.
    """

    base_model: StoredText | None = None
    prompt_format: Annotated[PromptFormat | Literal["raw"] | None, BeforeValidator(_read_raw)] = None
    suffix: Suffix | None = None


def read_fields(fields: dict[str, str]) -> ImportFields:
    """Read the form's fields.

    Raises:
        InvalidParameter: one is malformed.
        UnsupportedParameter: one is none of these.
    """
    try:
        return ImportFields.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        # only the field: which of the types it may have does not fit says nothing to who sent it
        raise refusal_of(first["type"], first["loc"][:1], first["msg"]) from error


@dataclass(frozen=True)
class KnownBase:
    """A base model as an adapter has to fit it. ``layers``: inputs and outputs of its linear layers, by name."""

    name: str
    fingerprint: str
    tokenizer: TextTokenizer
    layers: dict[str, tuple[int, int]]
    is_on_vllm: bool


def find_base(settings: Settings, name: str) -> KnownBase:
    """Read what has to be known of a base model; its weights are not touched.

    Raises:
        InvalidParameter: the deployment does not have it.
        BaseModelNotReady: it is not imported yet.
        ImportRefused: its layers are not known, so nobody could tell whether an adapter fits.
    """
    if name not in settings.base_models:
        raise InvalidParameter(
            "base_model",
            f"the adapter is for {shown(name)}, which this deployment does not have; if it has the same model by "
            "another name, give that",
        )
    imported, tokenizer = imported_of(settings, name), tokenizer_of(settings, name)
    try:
        shape = read_shape(folder_of(settings.base_models_folder, name))
    except BaseModelInvalid as error:
        raise ImportRefused(f"whether it fits {name} cannot be told: {error}") from error
    layers = {layer.name: (layer.inputs, layer.outputs) for layer in shape.linear_layers}
    return KnownBase(name, imported.fingerprint, tokenizer, layers, name in settings.vllm_urls)
