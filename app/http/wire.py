"""What all wire types share: inputs refuse what they do not know, outputs always have every field.

What an input's own fields are read as is `app.http.field_types`' matter.
"""

from collections.abc import Iterable
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from app.http.field_types import whole
from core.errors import InvalidParameter, UnsupportedParameter

T = TypeVar("T")


_MAX_FIELDS: Final = 256  # more than any body has


class Query(BaseModel):
    """What a query asks for, as texts. An unknown field is refused rather than ignored."""

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


class Body(Query):
    """Part of a JSON body, whose types are taken at their word: a text is no number, and a number no boolean.

    Lists become tuples only where `app.http.field_types.Many` says so.
    """

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _take_whole(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: whole(value) for name, value in fields.items()}


def refusal_of(kind: str, place: Iterable[str | int], message: str) -> InvalidParameter:
    """Make an error for people of the type, the place and the message of one of pydantic's."""
    param = ".".join(str(name) for name in place if name != "[key]")  # pydantic's mark that a key is at fault
    if kind == "extra_forbidden":
        return UnsupportedParameter(param)
    if kind == "unsupported_parameter":
        return UnsupportedParameter(param, message)
    return InvalidParameter(param, message[:1].lower() + message[1:])


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
