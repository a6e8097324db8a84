"""The model card of an adapter that was trained elsewhere: what was verified when it came, and what was not.

What its manifest says of its training is quoted as such. What the model is for, only its owner can say.
"""

from collections.abc import Iterator
from typing import Final

from core.base_models.registry import BaseModelEntry
from core.jobs.imported import ImportSpec
from core.provenance.card_parts import (
    INTENDED_USE,
    USE,
    CardEvaluation,
    base_model_row,
    escaped,
    front_matter,
    licences,
    scores,
    table,
)
from core.serving.adapter_format import IMPORTED_JOB, WEIGHTS, Manifest

_VERIFIED: Final = (
    "Names, shapes and values of all tensors fit the base model, by the rules that engines load adapters by."
)


def imported_card(
    name: str,
    spec: ImportSpec,
    manifest: Manifest,
    manifest_sha256: str,
    base: BaseModelEntry | None,
    evaluation: CardEvaluation | None,
) -> str:
    """Write the card of a model that was imported.

    Args:
        manifest: of the adapter, which it came with or was given at the import.
        base: what the registry says of the base model; None: it no longer has it.
        evaluation: None: there is none, so that the card says so.
    """
    shape = "" if spec.lora is None else f", rank {spec.lora.rank}, alpha {spec.lora.alpha:g}"
    parts = [
        f"# {escaped(name)}",
        f"An adapter (LoRA{shape}) of the base model {escaped(spec.base_model)}, {USE} It was not trained here: it "
        "came from elsewhere.",
        "## Intended use",
        INTENDED_USE,
        "## What was verified when it came",
        _list(_verified(spec, manifest)),
        "## What was not",
        _list(_unverified(spec, manifest)),
        "## Scores",
        *_scores(evaluation),
        "## Where it comes from",
        table(("", ""), _origins(spec, manifest, manifest_sha256, base)),
        "## Licences",
        *licences(spec.base_model, base),
    ]
    return f"{front_matter(base)}\n" + "\n\n".join(parts) + "\n"


def _came_with_manifest(manifest: Manifest) -> bool:
    return manifest.job_id != IMPORTED_JOB


def _verified(spec: ImportSpec, manifest: Manifest) -> Iterator[str]:
    yield _VERIFIED
    if _came_with_manifest(manifest):
        yield "Base model, tokenizer and chat template are, by their digests, those that its manifest names."
    if spec.rendering == "verified":
        yield f"The training prompts that its manifest has, {len(manifest.prompts)}, are fed here as they were there."


def _unverified(spec: ImportSpec, manifest: Manifest) -> Iterator[str]:
    if not _came_with_manifest(manifest):
        yield (
            f"That it was trained from {escaped(spec.base_model)}: whoever imported it said so, and two models of one "
            "shape are not told apart."
        )
    if spec.rendering == "unverified":
        yield "Whether prompts are fed as in its training: it has none that could be compared."
    said = f" Its manifest says: {escaped(manifest.trained_on)}." if _came_with_manifest(manifest) else ""
    yield f"What it was trained on, and how.{said}"


def _scores(evaluation: CardEvaluation | None) -> Iterator[str]:
    if evaluation is None:
        yield "No evaluation of this model is recorded."
    else:
        yield from scores(evaluation, "of which nobody here knows whether it was trained on them")


def _origins(
    spec: ImportSpec, manifest: Manifest, manifest_sha256: str, base: BaseModelEntry | None
) -> Iterator[tuple[str, str]]:
    yield "sent as", spec.filename
    yield base_model_row(spec.base_model, spec.base_model_fingerprint, base)
    yield "tokenizer", f"SHA-256 {manifest.tokenizer_sha256}"
    if manifest.chat_template_sha256 is not None:
        yield "chat template", f"SHA-256 {manifest.chat_template_sha256}"
    if _came_with_manifest(manifest):
        yield "job elsewhere, by its manifest", manifest.job_id
    yield "adapter", f"SHA-256 of its manifest {manifest_sha256}"
    yield "weights", f"SHA-256 {manifest.files[WEIGHTS].sha256}"


def _list(items: Iterator[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
