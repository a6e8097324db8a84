"""Types of requests' fields, each with the schema by which the API's description tells what is read.

A validator by itself changes what is taken, and pydantic goes on describing what came of it. Knows no route.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function, no_info_before_validator_function

from core.text.render_settings import PromptFormat

T = TypeVar("T")

MAX_STOP_CHARS: Final = 1024  # of one sequence, of which any part may have to be held back
MAX_NAME_CHARS: Final = 512
NO_NUL: Final = r"^[^\u0000]*$"


@dataclass(frozen=True)
class _Only:
    """Lets null and the values pass that ask for nothing."""

    neutral: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        return described | {"enum": [*self.neutral] if "type" in described else [None, *self.neutral]}

    def _check(self, value: Any) -> Any:
        if value is not None and not any(_is_same(value, allowed) for allowed in self.neutral):
            raise PydanticCustomError("unsupported_parameter", "this field is not supported; leave it out")
        return value


def only(*neutral: Any) -> _Only:
    """Mark a field of the protocol that is not implemented: null and the values that ask for nothing pass."""
    return _Only(neutral)


def described_by(example: dict[str, Any]) -> ConfigDict:
    """Give the configuration by which a body is described with an example."""
    return ConfigDict(json_schema_extra={"examples": [example]})


def whole(value: Any) -> Any:
    """Read 2.0 as the integer that it is to JSON's schemas; anything else is given back."""
    return int(value) if type(value) is float and value.is_integer() else value


def read_prompt_format(text: Any) -> Any:
    """Read a prompt format that travels as JSON in a query or a form."""
    try:
        return PromptFormat.model_validate_json(text) if isinstance(text, str) else text
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        reason = f"must be the JSON of an object with prompt and completion; {place}: {first['msg']}"
        raise PydanticCustomError("json", "{reason}", {"reason": reason}) from error


def _is_same(value: Any, allowed: Any) -> bool:
    return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)  # 0 is not false


@dataclass(frozen=True)
class _OneOrMany:
    """Reads one item as a list of it, and null as none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(_as_many, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many, {"type": "null"}]}


def _as_many(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class _OnlySuchKeys:
    """Describes an object whose keys have a pattern as one without any others."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"additionalProperties": False}


@dataclass(frozen=True)
class _WithoutNul:
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(_refuse_nul, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": NO_NUL}


def _refuse_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul", "the character U+0000 is not allowed")
    return value


Many = Annotated[tuple[T, ...], Field(strict=False)]  # a list of JSON
# Outermost, so that bounds on the list are told of the list.
ONE_OR_MANY: Final = _OneOrMany()
ONLY_SUCH_KEYS: Final = _OnlySuchKeys()
# An empty one would stop before anything.
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
# A part of a served model's name, between colons.
Suffix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# A name, or another short text, that a database is asked for; PostgreSQL takes no NUL.
StoredText = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS), _WithoutNul()]
