"""From a run folder whose training is over to what makes its job succeed; also from one that an earlier attempt left.

An attempt that could not store its result leaves it in its run folder, where the next one on this host finds it and
need not train again. Who may write the result down is ``core.store.queue.leases``' matter.
"""

from pathlib import Path

import structlog

from core.errors import AdapterInvalid
from core.jobs.attempt import Publication
from core.provenance.record import PROVENANCE, WEIGHTS_SHA256
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from core.store.blobs import BlobStore
from worker.jobs.blob_transfer import StoredResults, require_whole, store_adapter, store_results
from worker.jobs.heartbeat import LeaseHeartbeat
from worker.jobs.run_folders import attempt_folders
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.messages import Finished
from worker.trainer_process.run_folder import ADAPTER, RESULTS, read_finished

_log = structlog.stdlib.get_logger(__name__)


def find_finished(runs_folder: Path, job_id: str) -> tuple[Path, Finished] | None:
    """Find the newest of a job's run folders on this machine that holds its result, every byte of it verified.

    Raises:
        HostUnfit: a folder cannot be read.
    """
    with host_faults("read the run folder"):
        for folder in attempt_folders(runs_folder, job_id):
            finished = read_finished(folder)
            if finished is None or not (folder / RESULTS).is_file():
                continue
            try:
                require_whole(folder / ADAPTER, job_id)
            except AdapterInvalid as error:
                _log.warning("result of an earlier attempt not used", attempt=folder.name, reason=str(error))
                continue
            return folder, finished
    return None


def store_result(
    blobs: BlobStore, folder: Path, finished: Finished, model: str, heartbeat: LeaseHeartbeat
) -> tuple[Publication, StoredResults]:
    """Store what a run came to; doing so again changes nothing.

    Raises:
        HostUnfit: the store does not take it, now.
        AdapterInvalid: a file is not the one that the manifest names.
    """
    with host_faults("store the result"):
        heartbeat.sign()
        adapter = store_adapter(blobs, folder / ADAPTER)
        heartbeat.sign()
        results = store_results(blobs, folder / RESULTS)
        weights = parse_manifest((folder / ADAPTER / MANIFEST).read_bytes()).files[WEIGHTS]
    publication = Publication(
        adapter=adapter,
        name=model,
        trained_on=finished.trained_on,
        trained_tokens=finished.trained_tokens,
        result={
            "steps": finished.steps,
            "adapter_step": finished.adapter_step,
            "metrics": finished.metrics,
            "measured": finished.measured.model_dump(mode="json"),
            WEIGHTS_SHA256: weights.sha256,
            PROVENANCE: None if finished.provenance is None else finished.provenance.model_dump(mode="json"),
        },
    )
    return publication, results
