"""/livez and /readyz, which need no key: whether the process lives, and whether it can serve."""

from fastapi import APIRouter, Response

from app.http.deps import RuntimeDep
from app.operations import readiness
from app.operations.health_schemas import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/livez")
def is_alive() -> Liveness:
    """Tell that the process answers."""
    return Liveness(alive=True)


@router.get("/readyz", responses={503: {"model": Readiness}})
async def is_ready(runtime: RuntimeDep, response: Response) -> Readiness:
    """Tell whether the database takes writes and the engines answer; jobs can wait for broker and workers."""
    report = await readiness.look(runtime)
    response.status_code = 200 if report.ready else 503
    return report
