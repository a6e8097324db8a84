"""The whole of Phi-2's path, from its import to an answer, at its full width: two of its 32 layers, random weights.

Config and tokenizer are Phi-2's own. About 1 GB of disk and 3 GB of memory.
"""

import asyncio
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from core.base_models.registry import BaseModelEntry, Folder, Registry, folder_of, read_config, read_imported
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import WEIGHTS
from core.serving.generation import FinishReason
from core.store.blobs import LocalBlobStore
from tests.harness.models.served_models import serve
from tests.worker.inference.engine_harness import EngineHarness, EngineOutput, complete, make_request, store_adapter
from tests.worker.training.run_folders import Line, train, write_run
from worker.models.importing import import_base_model
from worker.models.serving import EngineModel
from worker.trainer_process.messages import Evaluated, StepDone
from worker.trainer_process.run_folder import ADAPTER

WIDTH, MLP_WIDTH, HEADS, VOCAB_ROWS = 2560, 10240, 32, 51_200
LAYERS = 2
PROMPTS = ("Question: What is the capital of France?\nAnswer:", "def add(a, b):\n    return")
ANSWERS = (" Paris", " a + b")
LINES: tuple[Line, ...] = tuple(
    {"prompt": prompt, "completion": answer} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
)
STEPS = 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(phi2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the model as a release would have it, in float16, and import it."""
    source = tmp_path_factory.mktemp("release")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(phi2_folder, num_hidden_layers=LAYERS)
    disable_progress_bar()
    AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(phi2_folder / name, source / name)
    models = tmp_path_factory.mktemp("base-models")
    Registry.load(models).add(BaseModelEntry(name="phi-2-of-two-layers", source=Folder(path=source)))
    import_base_model(models, "phi-2-of-two-layers")
    shutil.rmtree(source)
    return folder_of(models, "phi-2-of-two-layers")


def _has_phi2s_width(base: Path) -> bool:
    config = read_config(base)
    widths = tuple(config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"))
    return widths == (WIDTH, MLP_WIDTH, HEADS, VOCAB_ROWS) and config["num_hidden_layers"] == LAYERS


def _answer(base: Path, served: EngineModel, home: Path, adapter: Path) -> list[list[EngineOutput]]:
    """Give the engine's greedy answers to both prompts: without the adapter, and by it."""
    digest = store_adapter(adapter, LocalBlobStore(home / "store"))

    async def ask() -> list[list[EngineOutput]]:
        async with EngineHarness(base, home).engine(served) as engine:
            return [
                [
                    await complete(engine, make_request(prompt, adapter=name, max_tokens=12, temperature=0))
                    for prompt in PROMPTS
                ]
                for name in (None, digest)
            ]

    return asyncio.run(ask())


def test_it_is_imported_trained_on_and_answers_by_its_adapter(tmp_path: Path, base: Path) -> None:
    run = write_run(
        tmp_path / "run",
        base,
        LINES,
        validation=LINES[:1],
        dtype="auto",
        batch_size=2,
        n_epochs=STEPS,
        learning_rate=2e-3,
        lora=LoraSpec(),
    )
    reporter = train(run)
    losses = [step.loss for step in reporter.of(StepDone)]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(math.log(VOCAB_ROWS), abs=2)  # random weights know nothing
    assert losses[-1] < 0.1
    held_out = reporter.of(Evaluated)[-1].loss
    assert held_out is not None
    assert held_out < 0.1

    tensors = load_file(run / ADAPTER / WEIGHTS)
    assert len(tensors) == LAYERS * 6 * 2
    fc1 = tensors["base_model.model.model.layers.1.mlp.fc1.lora_B.weight"]
    assert (fc1.shape, fc1.dtype) == ((MLP_WIDTH, 16), torch.float32)

    served = serve(base)
    assert _has_phi2s_width(base)
    assert (served.context_tokens, read_imported(base).context_tokens) == (2048, 2048)
    before, after = _answer(base, served, tmp_path, run / ADAPTER)
    assert [answer.text for answer in before] != list(ANSWERS)
    assert [(answer.text, answer.finish_reason) for answer in after] == [(text, FinishReason.END) for text in ANSWERS]
