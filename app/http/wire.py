"""What all wire types share: inputs refuse what they do not know, outputs always have every field."""

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

T = TypeVar("T")


MAX_STOP_CHARS: Final = 1024  # of one sequence, of which any part may have to be held back
_MAX_NAME_CHARS: Final = 512
_MAX_FIELDS: Final = 256  # more than any body has


class Body(BaseModel):
    """Part of a request. An unknown field is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_many(cls, fields: Any) -> Any:
        """Refuse at once what would be told field by field."""
        if isinstance(fields, dict) and len(fields) > _MAX_FIELDS:
            raise PydanticCustomError(
                "fields", "an object has {count} fields, and none has so many", {"count": len(fields)}
            )
        return fields


class Out(BaseModel):
    """Part of a response. No field has a default, so none is left out by accident."""

    model_config = ConfigDict(frozen=True)


class Page(Out, Generic[T]):
    """One page of a list; clients go on with ``after=<last id>`` while ``has_more`` is true."""

    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Out):
    id: str
    object: str
    deleted: Literal[True]


def page(data: list[T], ids: list[str], has_more: bool) -> Page[T]:
    """Make a page of its items and their ids, which are in the same order."""
    return Page(
        object="list", data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )


def only(*neutral: Any) -> AfterValidator:
    """Mark a field of the protocol that is not implemented: null and the values that ask for nothing pass."""

    def check(value: Any) -> Any:
        if value is not None and not any(value == allowed for allowed in neutral):
            raise PydanticCustomError("unsupported_parameter", "this field is not supported; leave it out")
        return value

    return AfterValidator(check)


def _one_as_many(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _storable(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul", "the character U+0000 is not allowed")
    return value


# One string or a list of them; an empty one would stop before anything.
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[tuple[Stop, ...], BeforeValidator(_one_as_many)]
# A name, or another short text, that a database is asked for; PostgreSQL takes no NUL.
StoredText = Annotated[str, StringConstraints(max_length=_MAX_NAME_CHARS), AfterValidator(_storable)]
