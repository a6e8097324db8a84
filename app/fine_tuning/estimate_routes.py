"""/v1/fine_tuning/estimates: what a job would take, before it is made."""

import time

from fastapi import APIRouter, Depends

from app.fine_tuning import estimates, service
from app.fine_tuning.estimate_schemas import EstimateOut
from app.fine_tuning.schemas import JobCreate
from app.http.auth import require_caller
from app.http.deps import BlobsDep, ReadSession, RegistryDep, SettingsDep
from app.http.json_body import JsonRoute
from app.http.route_errors import raises
from core.errors import BaseModelNotReady, BlobNotFound, FileNotStored, ModelNotFound

router = APIRouter(
    prefix="/v1/fine_tuning/estimates",
    tags=["fine-tuning"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.post("")
@raises(ModelNotFound, BaseModelNotReady, FileNotStored, BlobNotFound)
def create_estimate(
    request: JobCreate, session: ReadSession, settings: SettingsDep, registry: RegistryDep, blobs: BlobsDep
) -> EstimateOut:
    """Say what a fine-tuning job would take, without making it: the body is a job's.

    Tokens are counted as the trainer will count them; a large file's are counted on a sample and scaled. Time is
    learnt from finished jobs of the base model, or assumed where there are none. What cannot be said is null, and
    ``problems`` says why.
    """
    spec = service.specify(session, request, request.training_file, settings=settings, registry=registry)
    found = estimates.estimate(
        session, spec, entry=registry.get(spec.base_model), settings=settings, blobs=blobs, now=int(time.time())
    )
    return EstimateOut.of(found, spec.base_model)
