"""Starts a run from the weights of an adapter that was trained before: verified, then taken over.

Who puts the adapter's files into the run folder is the worker; what they hold is ``core.serving.adapter_format``.
"""

import hashlib
from pathlib import Path

from core.errors import AdapterInvalid
from core.jobs.spec import AdapterRef
from core.serving.adapter_format import MANIFEST, digest_file, parse_manifest
from worker.training.model.lora import LoraModel
from worker.training.output.adapter_files import restore_adapter


def start_from(model: LoraModel, folder: Path, ref: AdapterRef, fingerprint: str) -> None:
    """Replace the model's start values by those of an adapter.

    Args:
        fingerprint: of the base model that the run trains on.

    Raises:
        AdapterInvalid: a file is not what ``ref`` stands for, or the adapter is of another base model or shape.
    """
    content = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(content).hexdigest() != ref.adapter_sha256:
        raise AdapterInvalid(ref.adapter_sha256, f"the manifest of {ref.name} is not the one this job was made for")
    manifest = parse_manifest(content)
    for name, expected in manifest.files.items():
        if digest_file(folder / name) != expected:
            raise AdapterInvalid(ref.adapter_sha256, f"{name} of {ref.name} is not the file its manifest names")
    if manifest.base_model_fingerprint != fingerprint:
        raise AdapterInvalid(
            ref.adapter_sha256,
            f"{ref.name} was trained on {manifest.base_model} with fingerprint {manifest.base_model_fingerprint[:12]}, "
            f"but the base model here has {fingerprint[:12]}; leave continue_from out to train anew",
        )
    if manifest.lora is None or manifest.lora.model_copy(update={"dropout": model.lora.dropout}) != model.lora:
        raise AdapterInvalid(ref.adapter_sha256, f"{ref.name} has another shape than the one this job was made for")
    restore_adapter(model, folder)
