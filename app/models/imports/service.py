"""From the files that were sent to a model like any other: verified, then stored, then recorded."""

import structlog

from app.engines.routing import Engines
from app.models.imports.adapter_parts import choose_parts
from app.models.imports.statement import read_fields
from app.models.imports.upload import ImportUpload
from app.models.imports.verification import check_fit, manifest_of
from app.models.imports.weights import copy_weights
from core.errors import ServiceError
from core.jobs.attempt import StoredAdapter
from core.jobs.imported import ImportSpec
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.imports import NewImport

_log = structlog.stdlib.get_logger(__name__)


def store_import(
    upload: ImportUpload, fields: dict[str, str], *, settings: Settings, blobs: BlobStore, caller: str
) -> tuple[NewImport, tuple[str, ...]]:
    """Verify what was sent, and store it; give it with the names of files that are none of it.

    Nothing is stored before everything was found right.

    Raises:
        ImportRefused: it is unsafe, no adapter, or does not fit its base model.
        InvalidParameter, UnsupportedParameter: a field is missing or wrong.
        BaseModelNotReady: its base model is not imported yet.
        StorageFull: there is no room for it.
    """
    said = read_fields(fields)
    parts = choose_parts(upload.files())
    adapter = check_fit(parts, said, settings)
    with blobs.write() as writer:
        weights = copy_weights(adapter, parts.weights, writer)
        manifest = manifest_of(adapter, parts.config, weights)
        writer.commit()
    config = blobs.put_bytes(parts.config)
    stored = blobs.put_bytes(manifest)  # last: it names the others
    size_bytes = weights.bytes + config.bytes + stored.bytes
    spec = ImportSpec(
        base_model=adapter.base.name,
        base_model_fingerprint=adapter.base.fingerprint,
        filename=upload.filename,
        rendering=adapter.rendering,
        lora=adapter.origin.lora,
    )
    new = NewImport(
        caller=caller,
        spec=spec,
        requested=dict(fields),
        adapter=StoredAdapter(stored.sha256, size_bytes, (config.sha256, weights.sha256)),
        organization=settings.organization,
        suffix=said.suffix,
    )
    return new, parts.ignored


async def warm(new: NewImport, engines: Engines) -> None:
    """Have an engine load the adapter before it is first asked. One that is away loads it then."""
    try:
        await engines.get(new.spec.base_model).warm(new.adapter.sha256)
    except ServiceError as error:
        _log.warning("an imported adapter was not loaded", adapter=new.adapter.sha256, reason=str(error))
