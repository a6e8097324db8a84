"""An adapter's folder: PEFT's two files and a manifest, written last, whose SHA-256 is the adapter's identity.

Torch-free. The trainer writes such folders, the worker stores their files by content, the engine
reads them back; what the weights mean is PEFT's format.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from core.errors import AdapterInvalid
from core.jobs.spec import LoraSpec
from core.serving.generation import PromptSource
from core.serving.strict_json import parse_object
from core.text.files.examples import ExampleFormat
from core.text.render_settings import PromptFormat
from core.values import Frozen

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
FILES: Final = (CONFIG, WEIGHTS)  # in the order in which they are checked
MANIFEST: Final = "manifest.json"

IMPORTED_JOB: Final = "imported"  # in the place of a job's id, where an adapter came without a manifest

MANIFEST_LIMIT_BYTES = 2**20
MAX_PROMPTS = 3

_CHUNK_BYTES = 2**20

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileDigest(Frozen):
    sha256: Sha256
    bytes: int = Field(ge=0)


class TrainedPrompt(Frozen):
    """How one prompt of the training data was rendered: its text, and the ids that the model was shown."""

    source: PromptSource
    text: str
    ids: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...]


class AdapterOrigin(Frozen):
    """What an adapter was trained from, and so what it fits.

    ``lora.target_modules`` is resolved: the names of the layers that were adapted. ``prompts`` are for
    whoever serves the adapter to render again and compare. ``lora`` None: it has a shape that no job here makes, which
    its config tells, such as ranks by patterns.
    """

    base_model: str
    base_model_fingerprint: str
    tokenizer_sha256: Sha256
    chat_template_sha256: Sha256 | None  # None: the base model has no chat template
    example_format: ExampleFormat
    prompt_format: PromptFormat | None
    prompts: tuple[TrainedPrompt, ...] = Field(max_length=MAX_PROMPTS)
    job_id: str
    step: int
    trained_on: str
    lora: LoraSpec | None


class Manifest(AdapterOrigin):
    """An adapter's origin, and the files that it is made of."""

    format: Literal[1] = 1
    files: dict[Literal["adapter_model.safetensors", "adapter_config.json"], FileDigest]


def digest_file(path: Path) -> FileDigest:
    """Hash a file without reading it into memory at once."""
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return FileDigest(sha256=digest.hexdigest(), bytes=size_bytes)


def digest_text(text: str) -> str:
    """Hash a text, such as a chat template."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Mapping[str, object]) -> bytes:
    """Give the one spelling of a JSON object that digests are taken of: keys sorted, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_manifest(folder: Path, origin: AdapterOrigin) -> str:
    """Complete a folder that already holds the weights and PEFT's config; give the adapter's digest."""
    files = {WEIGHTS: digest_file(folder / WEIGHTS), CONFIG: digest_file(folder / CONFIG)}
    manifest = Manifest(files=files, **{name: getattr(origin, name) for name in AdapterOrigin.model_fields})
    content = canonical_json(manifest.model_dump(mode="json"))
    write_durably(folder / MANIFEST, content)
    return hashlib.sha256(content).hexdigest()


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest's bytes.

    Raises:
        AdapterInvalid: they are not a manifest of this format, say one thing twice, or do not name both files.
    """
    digest = hashlib.sha256(content).hexdigest()
    try:
        parse_object(content)  # pydantic would take the last of two equal keys, and NaN
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise AdapterInvalid(digest, f"its manifest is malformed: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise AdapterInvalid(digest, f"its manifest is malformed: {error}") from error
    missing = set(FILES) - set(manifest.files)
    if missing:
        raise AdapterInvalid(digest, f"its manifest does not name {', '.join(sorted(missing))}")
    return manifest
