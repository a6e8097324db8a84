"""Reads what an answer must be from a request, in any of the protocols' spellings.

Whether a schema or an expression can be followed is the engine's to say.
"""

import json
from typing import Any

import orjson

from app.generation.response_formats import Grammar, ResponseFormat
from core.errors import InvalidParameter
from core.serving.generation import MAX_CONSTRAINT_CHARS, Constraint
from core.text.files.examples import LineProblem, refuse_deep


def of_response_format(asked: ResponseFormat | None, param: str = "response_format") -> Constraint | None:
    """Give what a ``response_format`` asks for; None: any text.

    Raises:
        InvalidParameter: a schema is missing, or stands where its type has none.
    """
    if asked is None:
        return None
    given = {
        "json_schema.schema": asked.json_schema.json_schema if asked.json_schema else None,
        "value": asked.value,
        "schema": asked.bare_schema,
    }
    schemas = {place: schema for place, schema in given.items() if schema is not None}
    if len(schemas) > 1:
        raise InvalidParameter(param, f"there is more than one schema: in {' and in '.join(schemas)}")
    if asked.type == "text":
        if schemas:
            raise InvalidParameter(f"{param}.type", "text has no schema; ask for json_schema")
        return None
    if not schemas:
        if asked.type == "json_object":
            return Constraint(kind="json_object")
        place = "json_schema.schema" if asked.type == "json_schema" else "value"
        raise InvalidParameter(f"{param}.{place}", "give the schema that the answer is to follow")
    ((place, schema),) = schemas.items()
    return of_schema(schema, f"{param}.{place}")


def of_grammar(asked: Grammar, param: str) -> Constraint:
    """Give what a ``grammar`` asks for.

    Raises:
        InvalidParameter: its value is not what its type has.
    """
    if asked.type == "regex":
        if not isinstance(asked.value, str):
            raise InvalidParameter(f"{param}.value", "must be a regular expression, as a string")
        return of_regex(asked.value, f"{param}.value")
    if asked.type == "json_schema":
        schema = asked.value.get("schema") if isinstance(asked.value, dict) else None
        return of_schema(schema, f"{param}.value.schema")
    return of_schema(asked.value, f"{param}.value")


def of_regex(expression: str, param: str = "regex") -> Constraint:
    """Give what a regular expression asks for.

    Raises:
        InvalidParameter: it is empty, or too long.
    """
    if not expression:
        raise InvalidParameter(param, "must not be empty")
    return _constraint("regex", expression, param)


def of_schema(schema: Any, param: str) -> Constraint:
    """Give what a JSON schema, or the text of one, asks for.

    Raises:
        InvalidParameter: it is no object, nested too deep, or too long.
    """
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise InvalidParameter(param, f"is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidParameter(param, "must be a JSON schema, which is an object")
    try:
        refuse_deep(schema, line=1)
    except LineProblem as problem:
        raise InvalidParameter(param, problem.reason) from problem
    return _constraint("json_schema", json.dumps(schema, ensure_ascii=False), param)


def _constraint(kind: Any, value: str, param: str) -> Constraint:
    if len(value) > MAX_CONSTRAINT_CHARS:
        raise InvalidParameter(param, f"has {len(value):,} characters; {MAX_CONSTRAINT_CHARS:,} are allowed")
    return Constraint(kind=kind, value=value)
