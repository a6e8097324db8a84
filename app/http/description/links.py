"""Which routes an answer leads to, in the API's description."""

from typing import Any, Final

ID: Final = "$response.body#/id"
FIRST_ID: Final = "$response.body#/first_id"  # null where there is none


def leads_to(parameter: str, *operations: str, by: str = ID) -> dict[int | str, dict[str, Any]]:
    """Give the ``responses`` of a route after which each of these can be asked, by a part of its answer."""
    return {200: {"links": {name: {"operationId": name, "parameters": {parameter: by}} for name in operations}}}
