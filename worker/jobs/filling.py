"""Makes an attempt's run folder and puts into it everything that the trainer will read.

Whatever cannot be had here is this host's fault: the job was checked when it was made. What lies in a run folder
is ``worker.trainer_process.run_folder``'s.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from core.base_models.registry import BaseModelEntry, DType, ImportedModel, Registry, folder_of, read_imported
from core.errors import BaseModelDiffers, HostUnfit, ModelNotFound
from core.jobs.spec import JobSpec
from core.settings import Settings
from core.store.blobs import BlobStore, said_of
from core.store.queue.leases import Lease
from worker.jobs.blob_transfer import fetch_adapter
from worker.jobs.heartbeat import LeaseHeartbeat
from worker.jobs.run_folders import earlier_checkpoints, make_run_folder
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.run_folder import CONTINUE_FROM, TRAINING_FILE, VALIDATION_FILE, RunSpec, write_spec


@dataclass(frozen=True)
class RunChoices:
    """What a trainer chooses by the machine as it is, unless it is to repeat an earlier run.

    Attributes:
        dtype: number type of the base model; "auto": it chooses.
        token_budget: of a micro-batch; it decides the order of sums. None: it chooses.
    """

    dtype: DType = "auto"
    token_budget: int | None = None


def fill_run_folder(
    settings: Settings,
    blobs: BlobStore,
    lease: Lease,
    spec: JobSpec,
    model: str,
    heartbeat: LeaseHeartbeat,
    choices: RunChoices,
) -> Path:
    """Make the run folder of an attempt, ready to be trained in. ``model`` is the name of the adapter to come.

    Args:
        choices: what the run must not choose by itself.

    Raises:
        HostUnfit: there is no room, the base model is missing or damaged, or the store lacks something. No folder
            is left.
        BaseModelDiffers: the base model is another one than the job was made for.
        BlobDamaged: the bytes of a file or of the adapter to go on from have changed in the store.
        AdapterInvalid: the adapter to go on from has a malformed manifest.
    """
    entry, imported = require_base_model(settings.base_models_folder, spec.base_model)
    require_pinned(spec.base_model, spec.base_model_fingerprint, imported)
    with host_faults("make the run folder"):
        folder = make_run_folder(settings.runs_folder, lease.job_id, lease.token)
    try:
        _fetch_inputs(blobs, spec, folder, heartbeat)
        with host_faults("fill the run folder"):
            write_spec(
                folder,
                RunSpec(
                    job_id=lease.job_id,
                    token=lease.token,
                    job=spec,
                    base_model_folder=str(folder_of(settings.base_models_folder, spec.base_model)),
                    base_model_fingerprint=imported.fingerprint,
                    base_model_dtype=choices.dtype if entry.dtype == "auto" else entry.dtype,
                    training_file=TRAINING_FILE,
                    validation_file=None if spec.validation_file is None else VALIDATION_FILE,
                    resume_from=earlier_checkpoints(folder),
                    adapter_name=model,
                    token_budget=choices.token_budget,
                    kernels_folder=str(settings.kernels_folder),
                ),
            )
    except HostUnfit:
        shutil.rmtree(folder, ignore_errors=True)  # a full disk must not fill up further with each attempt
        raise
    return folder


def require_base_model(base_models_folder: Path, name: str) -> tuple[BaseModelEntry, ImportedModel]:
    """Give what registry and import say of a base model.

    Raises:
        HostUnfit: it is unknown or not imported on this machine, or what was imported is damaged.
    """
    with host_faults("read the base model"):
        try:
            entry = Registry.load(base_models_folder).get(name)
        except ModelNotFound as error:
            raise HostUnfit(f"base model {name} is not in the registry of this machine") from error
        imported = read_imported(folder_of(base_models_folder, name))
    return entry, imported


def require_pinned(name: str, pinned: str | None, imported: ImportedModel) -> None:
    """Make sure that a base model is the one that a job was made for.

    Args:
        pinned: its fingerprint then; None: whatever has the name will do.

    Raises:
        BaseModelDiffers: it is another one.
    """
    if pinned is not None and pinned != imported.fingerprint:
        raise BaseModelDiffers(
            f"the job was made for {name} with the fingerprint {pinned[:12]}, and here it has "
            f"{imported.fingerprint[:12]}; import the same base model, or cancel the job and make it anew"
        )


def _fetch_inputs(blobs: BlobStore, spec: JobSpec, folder: Path, heartbeat: LeaseHeartbeat) -> None:
    files = (
        ("training file", spec.training_file, TRAINING_FILE),
        ("validation file", spec.validation_file, VALIDATION_FILE),
    )
    for role, file, name in files:
        if file is not None:
            heartbeat.sign()
            with host_faults(f"copy the {role} in"), said_of(f"{role} {file.id}"):
                blobs.fetch(file.sha256, folder / name)
    if spec.continue_from is not None:
        heartbeat.sign()
        with host_faults("copy the adapter in"), said_of(f"the adapter {spec.continue_from.name} to go on from"):
            fetch_adapter(blobs, spec.continue_from.adapter_sha256, folder / CONTINUE_FROM)
