"""Who is asking: checks the bearer key, in constant time, and names the caller by a hash of it."""

import hashlib
import hmac
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.http.deps import SettingsDep, settings_of
from app.http.route_errors import raises
from core.errors import AuthenticationFailed
from core.settings import Settings

ANONYMOUS = "anonymous"

_bearer = HTTPBearer(auto_error=False, description="The deployment's API key, where it has one.")


@raises(AuthenticationFailed)
async def require_caller(
    settings: SettingsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """Name the caller; every router but health's depends on this.

    Raises:
        AuthenticationFailed: the deployment has a key and the request does not carry it.
    """
    return _name(settings, credentials)


def wants_key(dependant: Dependant) -> bool:
    """Tell whether a route of these dependencies asks who the caller is."""
    return dependant.call is require_caller or any(map(wants_key, dependant.dependencies))


def describe_open(description: dict[str, Any]) -> None:
    """Have the API's description say of a deployment without a key that it asks for none."""
    description.get("components", {}).pop("securitySchemes", None)
    for methods in description["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
            operation["responses"].pop(str(AuthenticationFailed.status), None)


async def refuse_stranger(request: Request) -> None:
    """Check the key before anything of the body is read; FastAPI reads a JSON body before it asks any dependency.

    Raises:
        AuthenticationFailed: the deployment has a key and the request does not carry it.
    """
    _name(settings_of(request), await _bearer(request))


def _name(settings: Settings, credentials: HTTPAuthorizationCredentials | None) -> str:
    if settings.api_key is None:
        return ANONYMOUS
    given = hashlib.sha256((credentials.credentials if credentials else "").encode())
    expected = hashlib.sha256(settings.api_key.get_secret_value().encode())
    # Digests of equal length, so neither the key's content nor its length shows in the time taken.
    if not hmac.compare_digest(given.digest(), expected.digest()):
        raise AuthenticationFailed
    return given.hexdigest()[:12]


CallerDep = Annotated[str, Depends(require_caller)]
