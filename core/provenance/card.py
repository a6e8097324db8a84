"""The model card of a fine-tuned model, in Markdown: what it is and where it comes from, for whoever gets it.

A pure function of the job's manifest and of the scores that the model has on held-out rows. It names no host: a card
travels with the model. What the model is for, only its owner can say.
"""

import json
from collections.abc import Iterator

from core.base_models.registry import BaseModelEntry
from core.provenance.card_parts import (
    INTENDED_USE,
    NOT_RECORDED,
    USE,
    CardEvaluation,
    base_model_row,
    escaped,
    front_matter,
    licences,
    scores,
    table,
)
from core.provenance.manifest import JobManifest


def model_card(
    name: str,
    manifest: JobManifest,
    base: BaseModelEntry | None,
    evaluation: CardEvaluation | None,
    *,
    checkpoint_step: int | None = None,
) -> str:
    """Write the card of a model.

    Args:
        base: what the registry says of the base model; None: it no longer has it.
        evaluation: None: there is none, so that the card says so.
        checkpoint_step: of a model that is a checkpoint of the job; None: it is the job's result.
    """
    of_what = "An adapter" if checkpoint_step is None else f"A checkpoint after step {checkpoint_step}: an adapter"
    rank, alpha = (manifest.settings[f"lora.{part}"].value for part in ("rank", "alpha"))
    parts = [
        f"# {escaped(name)}",
        f"{of_what} (LoRA, rank {rank}, alpha {alpha:g}) of the base model {escaped(manifest.base_model.name)}, {USE}",
        "## Intended use",
        INTENDED_USE,
        "## What it was trained on",
        *_trained_on(manifest),
        "## Held-out scores",
        *_scores(manifest, evaluation, is_result=checkpoint_step is None),
        "## How it was trained",
        table(("setting", "value", "from", "why"), _settings(manifest)),
        "## What it was trained with",
        *_environment(manifest),
        "## Where it comes from",
        table(("", ""), _origins(manifest, base, is_result=checkpoint_step is None)),
        "## Licences",
        *licences(manifest.base_model.name, base),
    ]
    return f"{front_matter(base)}\n" + "\n\n".join(parts) + "\n"


def _trained_on(manifest: JobManifest) -> Iterator[str]:
    if manifest.results is not None:
        yield f"{escaped(manifest.results.trained_on)}."
    files = {"training": manifest.data.training_file, "validation": manifest.data.validation_file}
    rows = [(role, file.id, f"{file.examples:,}", file.sha256) for role, file in files.items() if file is not None]
    yield table(("file", "id", "examples", "SHA-256"), rows)
    if manifest.data.rendered is not None:
        fed = manifest.data.rendered
        yield f"As fed: {fed.tokens:,} tokens of {fed.examples:,} examples, SHA-256 {fed.sha256}."


def _scores(manifest: JobManifest, evaluation: CardEvaluation | None, *, is_result: bool) -> Iterator[str]:
    if evaluation is not None:
        yield from scores(evaluation, "that were not trained on")
        return
    yield "No evaluation of this model is recorded."
    found = {} if manifest.results is None or not is_result else manifest.results.metrics
    held_out = [(name, f"{value:.4g}") for name, value in found.items() if "valid" in name and value is not None]
    if held_out:
        yield "What its training scored last on held-out examples, without intervals:"
        yield table(("metric", "mean"), held_out)


def _settings(manifest: JobManifest) -> Iterator[tuple[str, str, str, str]]:
    for name, setting in manifest.settings.items():
        yield name, json.dumps(setting.value, ensure_ascii=False), setting.origin, setting.why or ""


def _environment(manifest: JobManifest) -> Iterator[str]:
    if manifest.stints is None:
        yield f"Libraries and machine: {NOT_RECORDED}."
        return
    for stint in manifest.stints:
        if len(manifest.stints) > 1:
            yield f"From step {stint.from_step} on:"
        yield table(("", ""), stint.environment.items())


def _origins(manifest: JobManifest, base: BaseModelEntry | None, *, is_result: bool) -> Iterator[tuple[str, str]]:
    yield "job", manifest.id
    frozen = manifest.base_model
    yield base_model_row(frozen.name, frozen.fingerprint, base)
    yield "tokenizer", f"SHA-256 {frozen.tokenizer_sha256 or NOT_RECORDED}"
    if frozen.chat_template_sha256 is not None:
        yield "chat template", f"SHA-256 {frozen.chat_template_sha256}"
    if manifest.adapter is not None and is_result:
        yield "adapter", f"SHA-256 of its manifest {manifest.adapter.manifest_sha256}"
        yield "weights", f"SHA-256 {manifest.adapter.weights_sha256 or NOT_RECORDED}"
    parents = manifest.parents
    if parents.continue_from is not None:
        yield "went on from", f"{parents.continue_from.name}, SHA-256 {parents.continue_from.adapter_sha256}"
    if parents.experiment is not None:
        place = parents.experiment
        yield "run of experiment", f"{place.id}, arm {place.arm}, seed {place.seed}"
    if parents.rerun_of is not None:
        yield "made again from", f"job {parents.rerun_of}"
