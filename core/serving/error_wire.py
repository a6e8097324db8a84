"""An engine's error as JSON between its process and its client's: ``{"code", "message", "args"}``."""

from core.errors import GenerationFailed, ServiceError


def error_body(error: ServiceError) -> dict[str, object]:
    return {"code": error.code, "message": str(error), "args": list(error.args)}


def read_error(body: object) -> ServiceError:
    """Make of an engine's error what it was over there; of one that is not meant for requests, GenerationFailed.

    Raises:
        ValueError: it is no error.
    """
    match body:
        case {"code": str(code), "message": str(message), "args": list(args)}:
            kind = next((kind for kind in ServiceError.tree() if kind.code == code and kind.status != 500), None)
            return GenerationFailed(message) if kind is None else kind(*args)
    raise ValueError("not an error")
