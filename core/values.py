"""The base of the values that travel between our parts: immutable, and strict about the fields that they have."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function


class Frozen(BaseModel):
    """An immutable value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class NoneAs:
    """Lets a word stand for None in a field that may be None, and has the field's schema say so."""

    word: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        return described | {"anyOf": [{"const": self.word}, *described["anyOf"]]}

    def _read(self, value: Any) -> Any:
        return None if value == self.word else value


# "auto", null and absence mean the same: the value is chosen when the job is created.
AutoInt = Annotated[int | None, NoneAs("auto")]
AutoFloat = Annotated[float | None, NoneAs("auto")]
AutoBool = Annotated[bool | None, NoneAs("auto")]
