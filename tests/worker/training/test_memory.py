from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from core.jobs import LoraSpec
from core.memory_plan import MAX_TOKENS_CPU, MIN_TOKENS
from tests.worker.training.conftest import MakeModel
from worker.training.memory import (
    activation_bytes_per_token,
    choose_token_budget,
    peak_memory_bytes,
)


def test_lora_dropout_leaves_more_behind_for_backward(tiny_phi: Path, make_model: MakeModel) -> None:
    plain = activation_bytes_per_token(make_model(tiny_phi))
    dropped = activation_bytes_per_token(make_model(tiny_phi, LoraSpec(rank=4, dropout=0.1)))
    hidden_bytes, layers = 80 * 4, 2
    assert plain > 8 * hidden_bytes * layers
    assert dropped > 1.3 * plain


@pytest.mark.parametrize(("free_bytes", "expected"), [(2**40, MAX_TOKENS_CPU), (1, MIN_TOKENS)])
def test_the_budget_has_bounds(
    tiny_phi: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, free_bytes: int, expected: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_bytes))
    assert choose_token_budget(make_model(tiny_phi)) == expected


def test_the_budget_fits_into_half_of_the_free_memory(
    tiny_phi: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tiny_phi)
    free_bytes = 2 * 100 * activation_bytes_per_token(model)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_bytes))
    assert choose_token_budget(model) == 100


def test_peak_memory_is_of_the_size_of_this_process() -> None:
    assert peak_memory_bytes(torch.device("cpu")) >= psutil.Process().memory_info().rss // 2
