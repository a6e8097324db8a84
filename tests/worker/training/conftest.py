"""Tiny base models, one thread, LoRA models to train, and compiled kernels, which are skipped without a compiler."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from core.jobs.spec import LoraSpec
from core.process.cpu_levels import Level, list_own_levels
from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi, write_tiny_qwen2
from worker.models.loading import load_base_model
from worker.native import compiling
from worker.native.compiling import TRAINER
from worker.native.library import load_library
from worker.training.measure import generation_eval
from worker.training.model.lora import LoraModel, add_lora
from worker.training.native.kernels import TrainerKernels


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, here and in the processes that compare with it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> Iterator[None]:
    """Answers to held-out prompts have two tokens: nothing that is learnt depends on them, and they are half of a run.

    Tests of the answers themselves take them whole, by a fixture of the same name.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation_eval, "MAX_NEW_TOKENS", 2)
        yield


@pytest.fixture(scope="session")
def tiny_phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi(tmp_path_factory.mktemp("bases") / "tiny-phi")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("bases") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("bases") / "tiny-qwen2")


@pytest.fixture(scope="session")
def compiler() -> str:
    """Path of a C++ compiler."""
    for name in compiling.COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no C++ compiler is on this machine")


def trainer_library(level: Level | None = None) -> tuple[ctypes.CDLL, str]:
    """Give the library of this run for a level; None: the machine's best."""
    folder = Settings(home=home_with_kernels()).kernels_folder
    return load_library(TRAINER, folder, level or list_own_levels()[0])


@pytest.fixture(scope="session", params=list_own_levels(), ids=lambda level: level.name)
def kernels(request: pytest.FixtureRequest, compiler: str) -> TrainerKernels:
    """The kernels of each level that this machine has, whether they are faster than torch at it or not."""
    return TrainerKernels(*trainer_library(request.param))


MakeModel = Callable[..., LoraModel]


@pytest.fixture
def make_model() -> MakeModel:
    """Load a tiny base in float32 and add LoRA layers whose B is not zero, so that every gradient flows."""

    def make(
        base: Path, lora: LoraSpec | None = None, *, random_b: bool = True, kernels: TrainerKernels | None = None
    ) -> LoraModel:
        loaded = load_base_model(base, dtype="float32")
        model = add_lora(loaded, lora or LoraSpec(rank=4, alpha=8), seed=0, kernels=kernels)
        if random_b:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for name, parameter in model.parameters.items():
                    if ".lora_B." in name:
                        parameter.normal_(std=0.05, generator=generator)
        return model

    return make
