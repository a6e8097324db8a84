"""How prompts go on: our blocks with their cache give the logits of transformers, whatever stands beside a text."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from worker.training.measure.continuation import (
    Continuation,
    ModulesContinuation,
    OwnContinuation,
    continue_texts,
)
from worker.training.model.lora import LoraModel
from worker.training.native.kernels import TrainerKernels

PROMPTS = ((5, 6, 7, 8, 9, 10, 11), (12,), tuple(range(20, 60)), (13, 14, 15))
FOLLOWING = ((21, 22, 23, 24), (25, 26, 27, 28), (29, 30, 31, 32))  # of each text, step by step
BASES = pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama", "tiny_qwen2"])


def read(texts: Continuation, following: Sequence[Sequence[int]] = FOLLOWING) -> Tensor:
    """Give (steps, B, V)."""
    return torch.stack([texts.read_prompts(), *(texts.read(torch.tensor(ids)) for ids in following)])


def own(model: LoraModel) -> Continuation:
    texts = continue_texts(model, PROMPTS, room=len(FOLLOWING))
    assert isinstance(texts, OwnContinuation)
    return texts


@BASES
def test_our_blocks_go_on_as_transformers_modules_do(
    base: str, make_model: MakeModel, request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(base))
    model.peft.eval()
    expected = read(ModulesContinuation(model, PROMPTS))
    assert (read(own(model)) - expected).abs().max() < 1e-5 * expected.abs().max()


@BASES
def test_kernels_go_on_as_transformers_modules_do(
    base: str, make_model: MakeModel, kernels: TrainerKernels, request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(base), kernels=kernels)
    model.peft.eval()
    expected = read(ModulesContinuation(model, PROMPTS))
    assert (read(own(model)) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_layers_that_are_not_our_own_go_on_too(tiny_llama: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_llama, LoraSpec(rank=4, alpha=8, dropout=0.5, use_dora=True))
    model.peft.eval()
    expected = read(ModulesContinuation(model, PROMPTS))
    assert (read(own(model)) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_text_does_not_see_those_beside_it(tiny_llama: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_llama)
    model.peft.eval()
    together = read(own(model))
    for place, prompt in enumerate(PROMPTS):
        alone = read(continue_texts(model, [prompt], len(FOLLOWING)), [[ids[place]] for ids in FOLLOWING])
        assert torch.allclose(together[:, place], alone[:, 0], atol=1e-5)
