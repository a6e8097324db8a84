"""The base of the values that travel between our parts: immutable, and strict about the fields that they have."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _auto_as_none(value: Any) -> Any:
    return None if value == "auto" else value


# "auto", null and absence mean the same: the value is chosen when the job is created.
AutoInt = Annotated[int | None, BeforeValidator(_auto_as_none)]
AutoFloat = Annotated[float | None, BeforeValidator(_auto_as_none)]
AutoBool = Annotated[bool | None, BeforeValidator(_auto_as_none)]
