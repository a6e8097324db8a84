"""The model card of a fine-tuned model, in Markdown: what it is and where it comes from, for whoever gets it.

A pure function of the job's manifest and of the scores that the model has on held-out rows. It names no host: a card
travels with the model. What the model is for, only its owner can say.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from core.provenance.manifest import JobManifest
from core.values import Frozen

INTENDED_USE: Final = "*To be filled in by the owner of this model: what it is for, and what it must not be used for.*"
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|])")
_NOT_RECORDED: Final = "not recorded"


class CardScore(Frozen):
    """A model's mean by a metric; ``mean`` None: it is defined for no row. Bounds are those of a 95 % interval."""

    model: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None


class CardEvaluation(Frozen):
    """An evaluation of the model beside its base model, on rows that it was not trained on.

    Attributes:
        text: its verdict, in words; "" where it is of other models too.
    """

    id: str
    rows: int
    text: str
    scores: tuple[CardScore, ...]


def model_card(
    name: str, manifest: JobManifest, evaluation: CardEvaluation | None, *, checkpoint_step: int | None = None
) -> str:
    """Write the card of a model.

    Args:
        evaluation: None: there is none, so that the card says so.
        checkpoint_step: of a model that is a checkpoint of the job; None: it is the job's result.
    """
    base = _text(manifest.base_model.name)
    of_what = "An adapter" if checkpoint_step is None else f"A checkpoint after step {checkpoint_step}: an adapter"
    rank, alpha = (manifest.settings[f"lora.{part}"].value for part in ("rank", "alpha"))
    parts = [
        f"# {_text(name)}",
        f"{of_what} (LoRA, rank {rank}, alpha {alpha:g}) of the base model {base}, to be loaded by PEFT or served by "
        "Loramill.",
        "## Intended use",
        INTENDED_USE,
        "## What it was trained on",
        *_trained_on(manifest),
        "## Held-out scores",
        *_scores(manifest, evaluation, is_result=checkpoint_step is None),
        "## How it was trained",
        _table(("setting", "value", "from", "why"), _settings(manifest)),
        "## What it was trained with",
        *_environment(manifest),
        "## Where it comes from",
        _table(("", ""), _origins(manifest, is_result=checkpoint_step is None)),
    ]
    return f"{_front_matter(manifest)}\n" + "\n\n".join(parts) + "\n"


def _front_matter(manifest: JobManifest) -> str:
    # JSON is YAML
    base = json.dumps(manifest.base_model.name)
    lines = ("---", f"base_model: {base}", "library_name: peft", "pipeline_tag: text-generation", "tags:", "- lora")
    return "\n".join((*lines, "---", ""))


def _trained_on(manifest: JobManifest) -> Iterator[str]:
    if manifest.results is not None:
        yield f"{_text(manifest.results.trained_on)}."
    files = {"training": manifest.data.training_file, "validation": manifest.data.validation_file}
    rows = [(role, file.id, f"{file.examples:,}", file.sha256) for role, file in files.items() if file is not None]
    yield _table(("file", "id", "examples", "SHA-256"), rows)
    if manifest.data.rendered is not None:
        fed = manifest.data.rendered
        yield f"As fed: {fed.tokens:,} tokens of {fed.examples:,} examples, SHA-256 {fed.sha256}."


def _scores(manifest: JobManifest, evaluation: CardEvaluation | None, *, is_result: bool) -> Iterator[str]:
    if evaluation is not None:
        if evaluation.text:
            yield _text(evaluation.text)
        rows = [(one.model, one.metric, _mean(one)) for one in evaluation.scores]
        yield _table(("model", "metric", "mean (95 % interval)"), rows)
        yield f"Evaluation {evaluation.id}, {evaluation.rows:,} rows that were not trained on."
        return
    yield "No evaluation of this model is recorded."
    found = {} if manifest.results is None or not is_result else manifest.results.metrics
    held_out = [(name, f"{value:.4g}") for name, value in found.items() if "valid" in name and value is not None]
    if held_out:
        yield "What its training scored last on held-out examples, without intervals:"
        yield _table(("metric", "mean"), held_out)


def _mean(score: CardScore) -> str:
    if score.mean is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.mean:.3f}{interval}"


def _settings(manifest: JobManifest) -> Iterator[tuple[str, str, str, str]]:
    for name, setting in manifest.settings.items():
        yield name, json.dumps(setting.value, ensure_ascii=False), setting.origin, setting.why or ""


def _environment(manifest: JobManifest) -> Iterator[str]:
    if manifest.stints is None:
        yield f"Libraries and machine: {_NOT_RECORDED}."
        return
    for stint in manifest.stints:
        if len(manifest.stints) > 1:
            yield f"From step {stint.from_step} on:"
        yield _table(("", ""), stint.environment.items())


def _origins(manifest: JobManifest, *, is_result: bool) -> Iterator[tuple[str, str]]:
    yield "job", manifest.id
    base = manifest.base_model
    yield "base model", f"{base.name}, fingerprint {base.fingerprint or _NOT_RECORDED}"
    yield "tokenizer", f"SHA-256 {base.tokenizer_sha256 or _NOT_RECORDED}"
    if base.chat_template_sha256 is not None:
        yield "chat template", f"SHA-256 {base.chat_template_sha256}"
    if manifest.adapter is not None and is_result:
        yield "adapter", f"SHA-256 of its manifest {manifest.adapter.manifest_sha256}"
        yield "weights", f"SHA-256 {manifest.adapter.weights_sha256 or _NOT_RECORDED}"
    parents = manifest.parents
    if parents.continue_from is not None:
        yield "went on from", f"{parents.continue_from.name}, SHA-256 {parents.continue_from.adapter_sha256}"
    if parents.experiment is not None:
        place = parents.experiment
        yield "run of experiment", f"{place.id}, arm {place.arm}, seed {place.seed}"
    if parents.rerun_of is not None:
        yield "made again from", f"job {parents.rerun_of}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Write a text so that Markdown shows it as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
