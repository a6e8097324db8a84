"""That no text of a URL holds U+0000, in the API's description: such a URL is refused before any route is asked.

Who refuses it is `app.http.middleware`.
"""

from typing import Any

from app.http.field_types import NO_NUL


def describe_url_texts(description: dict[str, Any]) -> None:
    """Give each text in a path or a query a pattern, where it has none of its own."""
    for operations in description["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] in ("path", "query"):
                    _describe(parameter["schema"])


def _describe(schema: dict[str, Any]) -> None:
    for one in (schema, *schema.get("anyOf", ())):
        if one.get("type") == "string" and "enum" not in one:
            one.setdefault("pattern", NO_NUL)
