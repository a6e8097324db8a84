from pathlib import Path

import torch

from tests.worker.training.conftest import MakeModel
from tests.worker.training.runs import SUMS, render
from worker.training.noise import draw_noise


def test_an_examples_noise_does_not_depend_on_its_company(
    tmp_path: Path, tiny_phi: Path, make_model: MakeModel
) -> None:
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training
    model = make_model(tiny_phi)
    alone = draw_noise(model.collate([examples[1]]), [7], alpha=5.0, width=80)
    both = draw_noise(model.collate([examples[0], examples[1]]), [3, 7], alpha=5.0, width=80)
    inputs = len(examples[1].ids_T) - 1
    first = len(examples[0].ids_T) - 1
    # the last segment's length holds some padding, so that only the scale differs
    ratio = both[first : first + inputs] / alone[:inputs]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), atol=1e-5)


def test_has_the_papers_size(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training
    batch = make_model(tiny_phi).collate([examples[0]])
    noise_NH = draw_noise(batch, [1], alpha=5.0, width=80)
    bound = 5.0 / (batch.lengths[0] * 80) ** 0.5
    assert 0.95 * bound < float(noise_NH.abs().max()) <= bound
