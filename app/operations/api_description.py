"""/openapi.json, for those who have a key."""

from typing import Any

from fastapi import APIRouter, Depends, Request

from app.http.auth import require_caller

router = APIRouter(dependencies=[Depends(require_caller)])


@router.get("/openapi.json", include_in_schema=False)
def describe(request: Request) -> dict[str, Any]:
    """Describe this API."""
    description: dict[str, Any] = request.app.openapi()
    return description
