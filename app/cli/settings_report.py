"""`loramill settings`: every setting with its value and origin, and the page docs/settings.md.

Knows only what ``core.settings`` declares; secrets and passwords in URLs are never shown.
"""

import json
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.cli.columns import align
from core.settings import PREFIX, Settings

MASK = "********"

INTRODUCTION = """# Settings

Every setting is an environment variable, read once when a process starts. A misspelt name or a
malformed value stops the start with a sentence that names it. `loramill settings` shows the values
in force and where each comes from.

This page is generated: `loramill settings --markdown > docs/settings.md`.

| variable | type | default | meaning |
| --- | --- | --- | --- |
"""


def show(settings: Settings, as_json: bool) -> str:
    """Give each setting's variable, value and origin: ``default`` or ``environment``."""
    rows = [
        {
            "variable": variable(name),
            "value": mask(getattr(settings, name)),
            "origin": "environment" if name in settings.model_fields_set else "default",
        }
        for name in Settings.model_fields
    ]
    if as_json:
        return json.dumps(rows, indent=2)
    return align([(str(row["variable"]), str(row["origin"]), _plain(row["value"])) for row in rows])


def markdown() -> str:
    """Give docs/settings.md, from the declarations alone."""
    return INTRODUCTION + "".join(
        f"| `{variable(name)}` | {_type_name(field)} | {_default(field)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )


def variable(name: str) -> str:
    """Give the environment variable of a setting."""
    return PREFIX + name.upper()


def mask(value: Any) -> Any:
    """Turn a setting's value into JSON's types, without secrets and without passwords in URLs."""
    match value:
        case SecretStr():
            return MASK
        case dict():
            return {key: mask(entry) for key, entry in value.items()}
        case tuple():
            return [mask(entry) for entry in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return re.sub(r"(://[^/@]*?:)[^/]*@", rf"\1{MASK}@", str(value))


def _plain(value: Any) -> str:
    match value:
        case None:
            return "(unset)"
        case list():
            return ",".join(value)
        case dict() | bool():
            return json.dumps(value)
        case _:
            return str(value)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == ():
        return ""
    return f"`{_plain(mask(value))}`"


def _type_name(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):  # of a Literal it is the first
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    names = {"str": "text", "SecretStr": "secret", "int": "whole number", "float": "number", "Path": "path"}
    names |= {"bool": "`true` or `false`", "tuple": "list", "dict": "JSON object"}
    return names[(get_origin(annotation) or annotation).__name__] + _bounds(field)


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    return f", {', '.join(found)}" if found else ""
