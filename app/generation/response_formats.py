"""How a request says what its answer must be, in the spellings of OpenAI, text-generation-inference and LoRAX."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from app.http.wire import Body


class JsonSchema(Body):
    """OpenAI's wrapping of a schema. The answer follows the schema whether or not ``strict`` asks for it."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str | None = Field(None, max_length=256)
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's ``response_format``, with the schema where LoRAX (``schema``) or huggingface_hub (``value``) have it."""

    type: Literal["text", "json_object", "json_schema", "json"]
    json_schema: JsonSchema | None = None
    value: dict[str, Any] | None = None
    bare_schema: dict[str, Any] | None = Field(None, alias="schema")


class Grammar(Body):
    """Text-generation-inference's ``grammar``: a schema or the text of one, an expression, or OpenAI's wrapping."""

    type: Literal["json", "regex", "json_schema"]
    value: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})]
