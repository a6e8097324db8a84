"""The engine in this process: each row gets its own adapter's answer, as PEFT alone gives it."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from core.errors import AdapterInvalid, AdapterMismatch, InvalidParameter, PromptTooLong
from core.serving.adapter_format import MANIFEST, WEIGHTS
from core.text.tokenizer import TextTokenizer
from loramill import LLM
from loramill.llm import Completion
from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_llama
from tests.worker.inference.adapters.adapter_files import write_adapter

PROMPTS = ["the cat", "on a mat, ", "sat and", "saw the dog"]
TOKENS = 12


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("adapters") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders, start=1):
        write_adapter(tiny_llama, folder, seed=seed)
    return folders


@pytest.fixture(scope="module")
def llm(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """One for all tests, as none of them changes it; ends and beginnings are ``test_llm_lifetime``'s."""
    home = tmp_path_factory.mktemp("home")
    share_kernels(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAMILL_HOME", str(home))
        opened = LLM(tiny_llama, dtype="float32")
    with opened:
        yield opened


def peft_ids(base: Path, adapter: Path | None, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Give what transformers and PEFT answer, token by token, without a batch or a cache."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    vocab_size = TextTokenizer.from_folder(base).vocab_size  # the model has more rows
    fed = list(ids)
    with torch.inference_mode():
        for _ in range(TOKENS):
            logits_V = model(input_ids=torch.tensor([fed])).logits[0, -1, :vocab_size]
            fed.append(int(logits_V.argmax()))
    return tuple(fed[len(ids) :])


def prompt_ids(completion: Completion) -> tuple[int, ...]:
    assert completion.prompt is not None
    return tuple(token.id for token in completion.prompt)


def test_each_row_is_answered_by_its_own_adapter(llm: LLM, tiny_llama: Path, adapters: list[Path]) -> None:
    first, second = adapters
    rows = [None, first, second, first]
    answers = llm.generate(PROMPTS, adapter=rows, max_tokens=TOKENS, ignore_end=True, prompt_logprobs=True)
    for answer, adapter in zip(answers, rows, strict=True):
        assert answer.ids == peft_ids(tiny_llama, adapter, prompt_ids(answer))
        assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", TOKENS)
    assert len({answer.ids for answer in llm.generate(["the cat"] * 3, adapter=[None, *adapters])}) == 3


def test_one_adapter_is_for_all_prompts(llm: LLM, adapters: list[Path]) -> None:
    each = llm.generate(PROMPTS, adapter=[str(adapters[0])] * len(PROMPTS))
    assert [answer.ids for answer in llm.generate(PROMPTS, adapter=adapters[0])] == [answer.ids for answer in each]


def test_a_prompt_is_a_text_its_ids_or_a_conversation(llm: LLM) -> None:
    (from_text,) = llm.generate("the cat", prompt_logprobs=True)
    (from_ids,) = llm.generate(prompt_ids(from_text))
    assert from_ids.ids == from_text.ids
    (chat,) = llm.generate({"messages": [{"role": "user", "content": "the cat"}]}, prompt_logprobs=True)
    text = "".join(token.text for token in chat.prompt or ())
    assert "the cat" in text
    assert text != "the cat"
    with pytest.raises(InvalidParameter, match="prompt format"):
        llm.generate({"variables": {"animal": "cat"}})


def test_more_prompts_than_may_wait_at_a_server_are_answered_in_their_order(llm: LLM) -> None:
    prompts = [f"number {number}" for number in range(300)]
    answers = llm.generate(prompts, max_tokens=1, prompt_logprobs=True)
    texts = ["".join(token.text for token in answer.prompt or ()) for answer in answers]
    assert texts == prompts
    assert llm.generate([]) == []


def test_sampling_parameters_are_the_engines(llm: LLM) -> None:
    (answer,) = llm.generate("the cat", max_tokens=5, temperature=1.0, seed=7, top_logprobs=2, ignore_end=True)
    assert len(answer.ids) == len(answer.logprobs) == 5
    assert all(len(token.top) == 2 for token in answer.tokens)
    assert llm.generate("the cat", max_tokens=5, temperature=1.0, seed=7, ignore_end=True)[0].ids == answer.ids
    with pytest.raises(ValidationError, match="n_beams"):
        llm.generate("the cat", n_beams=4)


def test_what_cannot_be_answered_is_refused_and_the_rest_goes_on(llm: LLM, adapters: list[Path]) -> None:
    with pytest.raises(PromptTooLong):
        llm.generate(["the cat", "x" * 300])
    with pytest.raises(ValueError, match="2 adapters for 1 prompts"):
        llm.generate(["the cat"], adapter=adapters)
    assert len(llm.generate("the cat", max_tokens=3)) == 1


def test_an_adapter_of_another_base_model_is_refused_at_once(tmp_path: Path, adapters: list[Path]) -> None:
    other = write_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(AdapterMismatch):
        LLM(other, adapters=adapters)


def test_a_damaged_adapter_is_refused(llm: LLM, tmp_path: Path, adapters: list[Path]) -> None:
    folder = shutil.copytree(adapters[0], tmp_path / "damaged")
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    with pytest.raises(AdapterInvalid, match="not the file its manifest names"):
        llm.generate("the cat", adapter=folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(AdapterInvalid, match=r"manifest\.json is missing"):
        llm.generate("the cat", adapter=folder)


def test_a_folder_that_was_written_anew_is_another_adapter(llm: LLM, tmp_path: Path, adapters: list[Path]) -> None:
    folder = tmp_path / "mine"
    answers = []
    for source in adapters:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        answers.append(llm.generate("the cat", adapter=folder)[0].ids)
    assert answers == [llm.generate("the cat", adapter=source)[0].ids for source in adapters]
    assert answers[0] != answers[1]


def test_it_works_where_an_event_loop_runs_as_in_a_notebook(llm: LLM) -> None:
    async def cell() -> list[Completion]:
        return llm.generate("the cat", max_tokens=2)

    assert len(asyncio.run(cell())) == 1
