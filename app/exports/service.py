"""What asking for an export means, everything that it is refused for, and what can be downloaded of it.

All is refused before anything is queued; how an export is made and tried is the worker's.
"""

from collections.abc import Sequence

from app.exports.prompts import choose_prompts
from app.exports.schemas import ExportAsked, ExportOut
from app.models.downloads.service import Download
from app.models.downloads.tar_layout import TarLayout
from app.models.service import find_by_own_name
from app.tokenizers import imported_of, tokenizer_of
from core.base_models.registry import folder_of
from core.errors import (
    BaseModelInvalid,
    BaseModelNotReady,
    BaseModelProtected,
    ExportNotReady,
    InvalidParameter,
    ModelNotFound,
)
from core.exports.possible import find_obstacle
from core.exports.spec import ExportSpec, TriedPrompt
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef
from core.jobs.status import JobStatus
from core.serving.adapter_format import CONFIG, MANIFEST_LIMIT_BYTES, Manifest, parse_manifest
from core.serving.peft_config import CONFIG_LIMIT_BYTES, parse_config
from core.settings import Settings
from core.store import adapters, exports, jobs
from core.store.aliases.records import name_behind
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.store.queue import waiting_line
from core.store.tables import JobRecord


def specify(session: Session, request: ExportAsked, *, settings: Settings, blobs: BlobStore) -> ExportSpec:
    """Resolve what a request leaves open, and refuse what cannot be exported so.

    Raises:
        InvalidParameter: a field is at fault, or the adapter or its base model cannot be exported so.
        BaseModelProtected: it is a base model.
        ModelNotFound: nothing has this name.
        BaseModelNotServed, BaseModelNotReady: its base model is not here.
        BlobNotFound, BlobDamaged, AdapterInvalid: the adapter cannot be read.
    """
    if request.dtype is not None and request.format != "merged":
        raise InvalidParameter("dtype", "is of the format merged; leave this field out")
    if request.type is not None and request.format != "gguf":
        raise InvalidParameter("type", "is of the format gguf; leave this field out")
    name = request.model if request.model in settings.base_models else name_behind(session, request.model)
    served = find_by_own_name(session, settings, name)
    if served is None:
        raise ModelNotFound(request.model)
    if served.adapter is None:
        raise BaseModelProtected(name, "exported")
    manifest = _read_manifest(blobs, name, served.adapter)
    imported, tokenizer = imported_of(settings, served.base_model), tokenizer_of(settings, served.base_model)
    if manifest.base_model_fingerprint != imported.fingerprint:
        raise InvalidParameter(
            "model",
            f"{name} was trained on {served.base_model} with the fingerprint {manifest.base_model_fingerprint[:12]}, "
            f"and here it has {imported.fingerprint[:12]}",
        )
    trained_as = adapters.find_spec(session, name)
    spec = ExportSpec(
        model=name,
        base_model=served.base_model,
        base_model_fingerprint=imported.fingerprint,
        adapter=AdapterRef(name=name, adapter_sha256=served.adapter),
        format=request.format,
        dtype=(request.dtype or "bf16") if request.format == "merged" else None,
        type=(request.type or "f16") if request.format == "gguf" else None,
        prompts=(),
    )
    with said_of(f"the config of {name}"), blobs.open(manifest.files[CONFIG].sha256) as file:
        lora = parse_config(served.adapter, file.read(CONFIG_LIMIT_BYTES))
    try:
        obstacle = find_obstacle(
            spec.format,
            spec.type,
            base_model_folder=folder_of(settings.base_models_folder, served.base_model),
            tokenizer=tokenizer,
            lora=lora,
            quantization=None if trained_as is None else trained_as.quantization,
        )
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error
    if obstacle is not None:
        raise InvalidParameter("format", f"{name} cannot be exported as {spec.described}: {obstacle}")
    prompts: Sequence[TriedPrompt] = choose_prompts(manifest, trained_as, tokenizer, imported.context_tokens, blobs)
    return spec.model_copy(update={"prompts": tuple(prompts)})


def describe(session: Session, rows: Sequence[JobRecord]) -> list[ExportOut]:
    """Give exports as the API shows them."""
    places, files = waiting_line.places(session, rows), exports.list_files(session, [row.id for row in rows])
    return [ExportOut.of(row, files[row.id], queue_position=places.get(row.id)) for row in rows]


def find_download(session: Session, export_id: str) -> Download:
    """Lay out what an export made, as a tar.

    Raises:
        ExportNotFound: there is no such export.
        ExportNotReady: it has made nothing, or that was deleted.
    """
    job = jobs.get(session, export_id, JobKind.EXPORT)
    if job.status is not JobStatus.SUCCEEDED:
        raise ExportNotReady(export_id, f"its status is {job.status.value}")
    files = exports.list_files(session, [export_id])[export_id]
    if not files:
        raise ExportNotReady(export_id, "its files were deleted; export the model again")
    spec = ExportSpec.model_validate(job.spec)
    return Download(export_id, spec.adapter.adapter_sha256, TarLayout(files.items()))


def _read_manifest(blobs: BlobStore, name: str, digest: str) -> Manifest:
    with said_of(f"the manifest of {name}"), blobs.open(digest) as file:
        return parse_manifest(file.read(MANIFEST_LIMIT_BYTES))
