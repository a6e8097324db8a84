"""Whether an adapter may be served over a base model: the one rule for whichever backend computes it.

Owns the way from a manifest's stored bytes to what renders the adapter's prompts, and what is said of a file that is
not the one its manifest names. What weights and config must be like, and where they go, is each backend's matter.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from core.errors import AdapterInvalid, AdapterMismatch, BlobDamaged, BlobNotFound, InvalidParameter
from core.serving.adapter_format import (
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    FileDigest,
    Manifest,
    digest_text,
    parse_manifest,
)
from core.serving.rendering_check import find_mismatch
from core.serving.strict_json import shown
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

OpenStored = Callable[[str], BinaryIO]  # opens content by its SHA-256, unchecked; raises BlobNotFound


@dataclass(frozen=True)
class TrustedAdapter:
    """An adapter that fits the base model by all that its manifest says; its other files are yet to be read.

    ``renderer`` gives its training prompts as the model was trained on them.
    """

    manifest: Manifest
    renderer: Renderer


def trust_adapter(
    digest: str, open_stored: OpenStored, *, fingerprint: str, tokenizer: TextTokenizer
) -> TrustedAdapter:
    """Read the manifest that has this digest, and hold it against the base model that would serve the adapter.

    Raises:
        AdapterInvalid: the manifest is missing, damaged or malformed, wherever it would be served.
        AdapterMismatch: it was made for another base model, tokenizer or chat template, or would be fed prompts
            that are not those of its training.
    """
    manifest = parse_manifest(read_stored(digest, MANIFEST, digest, MANIFEST_LIMIT_BYTES, open_stored))
    if manifest.base_model_fingerprint != fingerprint:
        raise AdapterMismatch(
            digest,
            f"it was trained on {shown(manifest.base_model)} with fingerprint {manifest.base_model_fingerprint[:20]}, "
            f"but this engine's base model has {fingerprint[:20]}",
        )
    return TrustedAdapter(manifest, _check_rendering(digest, manifest, tokenizer))


def read_stored(digest: str, name: str, sha256: str, limit_bytes: int, open_stored: OpenStored) -> bytes:
    """Read one small file of the adapter whole.

    Raises:
        AdapterInvalid: it is missing, damaged, or over the limit.
    """
    with refusing(digest, name), open_stored(sha256) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise AdapterInvalid(digest, f"{name} is larger than {limit_bytes:,} bytes")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(digest, name, sha256)
    return content


@contextmanager
def refusing(digest: str, name: str) -> Iterator[None]:
    """Make what the store raises while a file of the adapter is read a refusal of the adapter.

    An error of the disk must not be taken for a mistake of the engine's: only this adapter suffers.
    """
    try:
        yield
    except BlobNotFound as error:
        raise AdapterInvalid(digest, f"{name} is not stored: {error}") from error
    except BlobDamaged as error:
        raise damaged(digest, name, error.sha256) from error
    except OSError as error:
        raise AdapterInvalid(digest, f"{name} cannot be read: {error}") from error


def wrong_size(digest: str, name: str, size_bytes: int, listed: FileDigest) -> AdapterInvalid:
    return AdapterInvalid(digest, f"{name} has {size_bytes:,} bytes, the manifest says {listed.bytes:,}")


def damaged(digest: str, name: str, sha256: str) -> AdapterInvalid:
    return AdapterInvalid(digest, f"{name} is damaged: its stored bytes do not have its digest {sha256[:12]}")


def _check_rendering(digest: str, manifest: Manifest, tokenizer: TextTokenizer) -> Renderer:
    """Give what renders the adapter's prompts, once it gives what the adapter was trained on."""
    try:
        renderer = Renderer(tokenizer, RenderSettings(prompt_format=manifest.prompt_format))
    except InvalidParameter as error:
        raise AdapterInvalid(digest, f"its prompt format is malformed: {error}") from error
    mismatch = find_mismatch(manifest.prompts, renderer, tokenizer)
    difference = "" if mismatch is None else f"; {mismatch}"
    if manifest.tokenizer_sha256 != tokenizer.digest:
        raise AdapterMismatch(digest, f"it was trained with another tokenizer than this engine's{difference}")
    template = tokenizer.chat_template
    template_sha256 = None if template is None else digest_text(template)
    if manifest.example_format == "messages" and manifest.chat_template_sha256 != template_sha256:
        raise AdapterMismatch(digest, f"it was trained with another chat template than this engine's{difference}")
    if mismatch is not None:
        raise AdapterMismatch(digest, mismatch)
    return renderer
