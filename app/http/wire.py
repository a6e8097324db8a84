"""What all wire types share: inputs refuse what they do not know, outputs always have every field.

What an input's own fields are read as is `app.http.field_types`' matter.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Query as QueryField
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from app.http.field_types import whole
from core.errors import InvalidParameter, UnsupportedParameter

T = TypeVar("T")


# as pydantic names the types that a field may have, among the names of fields
_TYPE: Final = re.compile(r"bool|int|float|str|constrained-(int|float|str)|.*\[.*")
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


def refusal_of_first(complaints: Sequence[Mapping[str, Any]]) -> InvalidParameter:
    """Make an error of the first of pydantic's complaints about a body; a body has at most one at a time to fix.

    Of a field that may have several types each of them complains: what came furthest is told, and by its place in the
    request, in which types have no names.
    """
    first = complaints[0]
    depth = next((depth for depth, name in enumerate(first["loc"]) if _is_type(name)), None)
    if depth is not None:
        field = first["loc"][:depth]
        first = max((one for one in complaints if one["loc"][:depth] == field), key=lambda one: len(one["loc"]))
    return refusal_of(first["type"], (name for name in first["loc"] if not _is_type(name)), first["msg"])


def _is_type(name: str | int) -> bool:
    return isinstance(name, str) and _TYPE.fullmatch(name) is not None


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


DryRun = Annotated[bool, QueryField(description="Delete nothing, and say what deleting would free.")]


class Deletion(Out):
    """OpenAI's answer to a deletion, and what it frees. ``deleted`` is false where it was only tried.

    Attributes:
        frees_bytes: what nothing else refers to, each of several equal files counted once.
        keeps: a sentence for each other record because of which bytes stay.
    """

    id: str
    object: str
    deleted: bool
    frees_bytes: int
    keeps: list[str]

    @classmethod
    def of(cls, kind: str, name: str, frees_bytes: int, keeps: Iterable[str], *, dry_run: bool) -> "Deletion":
        return cls(id=name, object=kind, deleted=not dry_run, frees_bytes=frees_bytes, keeps=list(keeps))


def page(data: list[T], ids: list[str], has_more: bool) -> Page[T]:
    """Make a page of its items and their ids, which are in the same order."""
    return Page(
        object="list", data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )
