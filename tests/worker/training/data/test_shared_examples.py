"""Runs that are trained together share their examples, and none is given others than it would render by itself."""

from pathlib import Path

import pytest

from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.worker.training.run_folders import SUMS, Line, file_ref, make_job, never_stop, render, write_lines
from worker.trainer_process.run_folder import TRAINING_FILE
from worker.training.data.shared_examples import SharedExamples, reweighted
from worker.training.preparation import rendering_of

WEIGHTS = (0.0, 0.1, 1.0)
WEIGHTED = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}]
MASKED: list[Line] = [*SUMS, {"prompt": "a", "completion": " b", "mask_spans": [[0, 2]]}]


@pytest.mark.parametrize("validation", [None, SUMS[:5]], ids=["drawn", "given"])
@pytest.mark.parametrize("given", WEIGHTS)
@pytest.mark.parametrize("wanted", WEIGHTS)
def test_another_weight_of_prompts_gives_what_rendering_anew_would(
    tmp_path: Path, tiny_phi: Path, given: float, wanted: float, validation: list[Line] | None
) -> None:
    found = reweighted(render(tmp_path, tiny_phi, SUMS, validation=validation, prompt_loss_weight=given), wanted)
    expected = render(tmp_path, tiny_phi, SUMS, validation=validation, prompt_loss_weight=wanted)
    assert found.digest == expected.digest
    assert (found.training.weights.dtype, found.summary) == (expected.training.weights.dtype, expected.summary)


def test_where_an_answers_token_has_no_weight_it_cannot_be_told_from_a_prompts(tmp_path: Path, tiny_phi: Path) -> None:
    assert render(tmp_path, tiny_phi, SUMS).every_answer_counts
    assert not render(tmp_path, tiny_phi, MASKED).every_answer_counts


def test_a_file_with_masked_answers_is_rendered_once_for_each_weight(tmp_path: Path, tiny_phi: Path) -> None:
    write_lines(tmp_path / TRAINING_FILE, MASKED)
    shared, found = SharedExamples(), []
    for weight in (0.0, 0.5, 0.0, 0.5):
        job = make_job(prompt_loss_weight=weight, training_file=file_ref())
        renderer = Renderer(TextTokenizer.from_folder(tiny_phi), rendering_of(job, tiny_phi))
        found.append(
            shared.load(
                renderer, job, training_file=tmp_path / TRAINING_FILE, validation_file=None, check_stop=never_stop
            )
        )
    assert found[0] is found[2]
    assert found[1] is found[3]
    expected = render(tmp_path, tiny_phi, MASKED, prompt_loss_weight=0.5)
    assert found[1].digest == expected.digest
    assert 0.0 in found[1].training.weights[~found[1].training.is_completion][1:]
