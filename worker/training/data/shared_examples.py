"""The examples of runs that are trained together, rendered once for all that agree on how.

What a prompt's tokens weigh is no part of rendering: where all of an answer counts, they are told by their weights.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from core.jobs.spec import JobSpec
from core.serving.adapter_format import digest_file
from core.text.rendering import Renderer
from worker.training.data.examples import ExampleSet, RunData, load_data
from worker.training.process.stopping import CheckStop

_Key = tuple[object, ...]


class SharedExamples:
    """Keeps what was rendered for one run, for those that follow."""

    def __init__(self) -> None:
        self._kept: dict[_Key, dict[float, RunData]] = {}  # by the weight of prompts

    def load(
        self,
        renderer: Renderer,
        job: JobSpec,
        *,
        training_file: Path,
        validation_file: Path | None,
        check_stop: CheckStop,
    ) -> RunData:
        """Give what `load_data` does, and raise what it raises."""
        kept = self._kept.setdefault(_key_of(renderer, job, training_file, validation_file), {})
        weight = job.prompt_loss_weight
        if weight not in kept:
            alike = next((data for data in kept.values() if data.every_answer_counts), None)
            if alike is not None:
                kept[weight] = reweighted(alike, weight)
            else:
                kept[weight] = load_data(
                    renderer, job, training_file=training_file, validation_file=validation_file, check_stop=check_stop
                )
        return kept[weight]


def reweighted(data: RunData, prompt_loss_weight: float) -> RunData:
    """Give the examples as they would have been rendered with another weight of prompts."""
    assert data.every_answer_counts
    return replace(
        data,
        training=_reweighted(data.training, prompt_loss_weight),
        held_out=_reweighted(data.held_out, prompt_loss_weight),
    )


def _reweighted(examples: ExampleSet, prompt_loss_weight: float) -> ExampleSet:
    weights = np.where(examples.is_completion, examples.weights, np.float32(prompt_loss_weight))
    weights[examples.offsets[:-1]] = 0.0  # nothing predicts an example's first token
    return replace(examples, weights=weights)


def _key_of(renderer: Renderer, job: JobSpec, training_file: Path, validation_file: Path | None) -> _Key:
    """Name what decides which ids there are. Files are the same if their bytes are."""
    settings = renderer.settings.model_copy(update={"prompt_loss_weight": 0.0})
    files = [(job.training_file, training_file), (job.validation_file, validation_file)]
    named = [(ref.file_type, digest_file(path)) for ref, path in files if ref is not None and path is not None]
    return (renderer.tokenizer.digest, settings.model_dump_json(), *named)
