"""A real vLLM server, where LORAMILL_VLLM_PYTHON names the Python of an environment that has vLLM.

Requests are for adapters only, as its CPU build needs it (docs/vllm.md).
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from app.engines.vllm.engine import VllmEngine
from app.engines.vllm.residence import name_of
from core.base_models.registry import Folder, ImportedModel, compute_fingerprint, read_imported
from core.errors import AdapterInvalid, InvalidParameter
from core.jobs.spec import LoraSpec
from core.process.bound import bound
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS, AdapterOrigin, write_manifest
from core.serving.generation import Constraint, Delta, FinishReason, GenerationRequest, SamplingParams
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import END_OF_TEXT, VOCAB_SIZE, write_byte_tokenizer

PYTHON = os.environ.get("LORAMILL_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(PYTHON is None, reason="LORAMILL_VLLM_PYTHON names no Python that has vLLM"),
]

BASE = "tiny-wide-heads"
START_S = 600.0
TOKENS = 12
LARGEST_RANK = 16
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = ("one", "a longer prompt, of several words", "7")


class Workshop:
    """One base model, a running server of it, and adapters as the trainer would leave them."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder, base_models=(BASE,))
        self.blobs = LocalBlobStore(self.settings.store_folder)
        self.base_folder = self.settings.base_models_folder / BASE
        self.folders: dict[str, Path] = {}
        self.url = ""
        write_base(self.base_folder)
        self.tokenizer = TextTokenizer.from_folder(self.base_folder)

    def add_adapter(self, seed: int, rank: int) -> str:
        folder = self.settings.home / f"adapter-{seed}"
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LAYERS, task_type="CAUSAL_LM")
        peft = get_peft_model(self._load_base(), config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.1, generator=generator)
        peft.save_pretrained(str(folder))
        write_manifest(
            folder,
            AdapterOrigin(
                base_model=BASE,
                base_model_fingerprint=read_imported(self.base_folder).fingerprint,
                tokenizer_sha256=self.tokenizer.digest,
                chat_template_sha256=None,
                example_format="prompt_completion",
                prompt_format=None,
                prompts=(),
                job_id="ftjob-test",
                step=1,
                trained_on="random numbers",
                lora=LoraSpec(rank=rank, alpha=2 * rank, target_modules=tuple(LAYERS)),
            ),
        )
        self.blobs.put_file(folder / WEIGHTS)
        self.blobs.put_file(folder / CONFIG)
        digest = self.blobs.put_file(folder / MANIFEST).sha256
        self.folders[digest] = folder
        return digest

    def greedy_by_peft(self, digest: str, prompt: str) -> list[int]:
        """Give PEFT's own answer, in float32 and without a cache."""
        model = PeftModel.from_pretrained(self._load_base(), str(self.folders[digest])).eval()
        ids = list(prompt.encode())
        with torch.inference_mode():
            for _ in range(TOKENS):
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in self.tokenizer.end_ids:
                    break
        return ids[len(prompt) :]

    def _load_base(self) -> LlamaForCausalLM:
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(str(self.base_folder), dtype=torch.float32)
        return model

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[VllmEngine]:
        engine = VllmEngine(BASE, self.url, self.blobs, self.settings)
        try:
            yield engine
        finally:
            await engine.close()


def write_base(folder: Path) -> None:
    """Write a random Llama; vLLM's CPU attention wants heads of 64, and no row of the vocabulary is no token."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            initializer_range=0.2,
            tie_word_embeddings=True,
            bos_token_id=END_OF_TEXT,
            eos_token_id=END_OF_TEXT,
        )
    )
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    imported = ImportedModel(
        name=BASE,
        fingerprint=compute_fingerprint(folder),
        source=Folder(path=folder.absolute()),
        context_tokens=256,
    )
    (folder / "loramill.json").write_text(imported.model_dump_json())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("home"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workshop.url = f"http://127.0.0.1:{port}"
    log = (workshop.settings.home / "vllm.log").open("w")
    process = subprocess.Popen(command(workshop, port), stdout=log, stderr=subprocess.STDOUT, env=environ())
    try:
        wait_for(workshop.url, process)
        yield workshop
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def command(workshop: Workshop, port: int) -> Sequence[str]:
    assert PYTHON is not None
    server = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(workshop.base_folder)]
    server += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-num-seqs", "8"]
    server += ["--enable-lora", "--max-loras", "4", "--max-lora-rank", str(LARGEST_RANK)]
    return bound([shutil.which("nice") or "nice", "-n", "19", *server, "--no-enable-prefix-caching"])


def environ() -> dict[str, str]:
    cpu = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"}
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return os.environ | cpu | quiet | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "vLLM ended while it started; see vllm.log in the test's folder"
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass  # it does not listen yet
        time.sleep(1)
    raise AssertionError("vLLM did not start in time")


async def ask(
    engine: VllmEngine, prompt: str, adapter: str, constraint: Constraint | None = None, **sampling: Any
) -> list[Delta]:
    params = SamplingParams.model_validate({"max_tokens": TOKENS, "constraint": constraint} | sampling)
    request = GenerationRequest(id="r", prompt=prompt, adapter=adapter, sampling=params, caller="me")
    return [delta async for delta in engine.generate(request)]


def ids_of(deltas: Sequence[Delta]) -> list[int]:
    return [token.id for delta in deltas for token in delta.tokens]


def test_adapters_batched_together_answer_as_peft_does_one_by_one(workshop: Workshop) -> None:
    adapters = [workshop.add_adapter(seed, rank) for seed, rank in ((1, 4), (2, 16))]
    asked = [(prompt, adapter) for prompt in PROMPTS for adapter in adapters]

    async def run() -> list[list[Delta]]:
        async with workshop.engine() as engine:
            return await asyncio.gather(*(ask(engine, *each) for each in asked))

    answers = asyncio.run(run())
    expected = [workshop.greedy_by_peft(adapter, prompt) for prompt, adapter in asked]
    assert [ids_of(deltas) for deltas in answers] == expected
    assert len({tuple(ids) for ids in expected}) == len(expected)


def test_an_adapter_that_was_unloaded_behind_our_back_is_loaded_again(workshop: Workshop) -> None:
    adapter = workshop.add_adapter(3, 8)

    async def run() -> tuple[list[Delta], list[Delta], tuple[str, ...]]:
        async with workshop.engine() as engine:
            before = await ask(engine, "one", adapter)
            body = {"lora_name": name_of(adapter)}
            async with httpx2.AsyncClient(trust_env=False) as client:
                answered = await client.post(f"{workshop.url}/v1/unload_lora_adapter", json=body)
            assert answered.status_code == 200
            after = await ask(engine, "one", adapter)
            await engine.unload(adapter)
            return before, after, (await engine.info()).resident_adapters

    before, after, resident = asyncio.run(run())
    assert ids_of(before) == ids_of(after)
    assert adapter not in resident


def test_prompt_logprobs_are_the_models_own(workshop: Workshop) -> None:
    adapter = workshop.add_adapter(4, 4)

    async def run() -> list[Delta]:
        async with workshop.engine() as engine:
            return await ask(engine, "abc", adapter, prompt_logprobs=True, top_logprobs=3)

    prompt = asyncio.run(run())[0].prompt
    model = PeftModel.from_pretrained(workshop._load_base(), str(workshop.folders[adapter])).eval()
    with torch.inference_mode():
        logprobs_TV = model(input_ids=torch.tensor([[*b"abc"]])).logits[0].log_softmax(-1)
    assert prompt is not None
    assert [token.logprob for token in prompt[1:]] == pytest.approx(
        [float(logprobs_TV[0, ord("b")]), float(logprobs_TV[1, ord("c")])], abs=1e-3
    )
    assert [other.id for other in prompt[1].top] == logprobs_TV[0].topk(3).indices.tolist()


def test_stops_biases_seeds_and_constraints_are_kept(workshop: Workshop) -> None:
    adapter = workshop.add_adapter(5, 4)
    always_a: dict[str, Any] = {"logit_bias": {ord("a"): 100.0}}

    async def run() -> dict[str, list[Delta]]:
        async with workshop.engine() as engine:
            return {
                "stop": await ask(engine, "one", adapter, stop=("aaa",), **always_a),
                "token": await ask(engine, "one", adapter, stop_token_ids=(ord("a"),), **always_a),
                "length": await ask(engine, "one", adapter, ignore_end=True, **always_a),
                "seed 1": await ask(engine, "one", adapter, temperature=1.0, seed=5),
                "seed 2": await ask(engine, "one", adapter, temperature=1.0, seed=5),
                "regex": await ask(engine, "one", adapter, Constraint(kind="regex", value="[xy]{3}")),
                "json": await ask(
                    engine,
                    "one",
                    adapter,
                    Constraint(kind="json_schema", value='{"enum": ["yes", "no"]}'),
                    temperature=1.0,
                ),
            }

    answers = asyncio.run(run())
    ends = {name: (deltas[-1].finish_reason, deltas[-1].stop) for name, deltas in answers.items()}
    texts = {name: "".join(delta.text for delta in deltas) for name, deltas in answers.items()}
    assert (texts["stop"], ends["stop"]) == ("", (FinishReason.STOP, "aaa"))
    assert ends["token"] == (FinishReason.END, ord("a"))
    assert (texts["length"], ends["length"]) == ("a" * TOKENS, (FinishReason.LENGTH, None))
    assert ids_of(answers["seed 1"]) == ids_of(answers["seed 2"])
    assert set(texts["regex"]) <= {"x", "y"}
    assert (len(texts["regex"]), ends["regex"]) == (3, (FinishReason.END, None))
    assert json.loads(texts["json"]) in ("yes", "no")


def test_what_vllm_refuses_is_said_of_the_field_or_the_adapter(workshop: Workshop) -> None:
    adapter, too_wide = workshop.add_adapter(6, 4), workshop.add_adapter(7, 2 * LARGEST_RANK)

    async def refused(constraint: Constraint | None, digest: str) -> None:
        async with workshop.engine() as engine:
            await ask(engine, "one", digest, constraint)

    with pytest.raises(InvalidParameter, match=r"^regex: "):
        asyncio.run(refused(Constraint(kind="regex", value="[ab"), adapter))
    with pytest.raises(AdapterInvalid, match="rank 32 is greater"):
        asyncio.run(refused(None, too_wide))
