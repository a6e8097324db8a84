"""Training in this process: with a job's defaults and refusals, to an adapter that PEFT and our engine load."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.errors import AdapterInvalid, AllExamplesDropped, ExampleInvalid, InvalidParameter
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from loramill import LLM, finetune
from tests.harness.models.tiny_models import write_tiny_llama
from worker.trainer_process.messages import Evaluated, Finished, Message, PhaseStarted, StepDone

COLOURS = ["red", "green", "blue", "white"]
EXAMPLES = [{"prompt": f"Colour of {number}:", "completion": f" {COLOURS[number % 4]}"} for number in range(24)]
QUICK = {"n_epochs": 1, "batch_size": 8, "n_evals": 1, "seed": 3, "lora": {"rank": 4}}


def trained(base: Path, out: Path, **more: Any) -> tuple[Path, list[Message]]:
    messages: list[Message] = []
    settings = QUICK | more.pop("settings", {})
    folder = finetune(base, more.pop("examples", EXAMPLES), settings, out=out, progress=messages.append, **more)
    return folder, messages


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"n_epochs": 30, "batch_size": 8, "learning_rate": 0.02, "seed": 3, "n_evals": 1, "lora": {"rank": 8}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAMILL_HOME", str(tmp_path_factory.mktemp("home")))
        out = tmp_path_factory.mktemp("adapter") / "colours"
        # with answers to score of their own, or one of the four would be held out
        return finetune(tiny_llama, EXAMPLES[:4] * 4, settings, out=out, validation=EXAMPLES[:4])


def test_our_engine_answers_as_it_was_taught(tiny_llama: Path, adapter: Path) -> None:
    with LLM(tiny_llama, adapters=[adapter]) as llm:
        prompts = [example["prompt"] for example in EXAMPLES[:4]]
        answers = llm.generate(prompts, adapter=adapter, max_tokens=8)
    assert [answer.text for answer in answers] == [example["completion"] for example in EXAMPLES[:4]]
    assert {answer.finish_reason for answer in answers} == {"end"}


def test_peft_loads_it(tiny_llama: Path, adapter: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    peft = PeftModel.from_pretrained(model, str(adapter))
    written = load_file(adapter / WEIGHTS)
    loaded = {name: value for name, value in peft.state_dict().items() if "lora_" in name}
    assert len(loaded) == len(written) > 0
    merged = peft.merge_and_unload().state_dict()
    assert any(not torch.equal(merged[name], value) for name, value in before.items())


def test_only_the_adapter_is_left(adapter: Path) -> None:
    assert [path.name for path in adapter.parent.iterdir()] == ["colours"]
    assert {path.name for path in adapter.iterdir()} >= {WEIGHTS, MANIFEST, "adapter_config.json"}


def test_the_messages_tell_of_each_step_and_of_the_held_out_loss(tiny_llama: Path, tmp_path: Path) -> None:
    _, messages = trained(tiny_llama, tmp_path / "out", validation=EXAMPLES[:3])
    assert [message.name for message in messages if isinstance(message, PhaseStarted)][:2] == ["rendering", "loading"]
    assert [message.step for message in messages if isinstance(message, StepDone)] == [1, 2, 3]
    assert {message.examples for message in messages if isinstance(message, Evaluated)} == {3}
    assert isinstance(messages[-1], Finished)


def test_equal_seeds_train_equally(tiny_llama: Path, tmp_path: Path) -> None:
    folders = [trained(tiny_llama, tmp_path / name)[0] for name in ("one", "two")]
    one, two = (load_file(folder / WEIGHTS) for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_settings_mean_what_they_mean_to_a_job(tiny_llama: Path, tmp_path: Path) -> None:
    folder, _ = trained(tiny_llama, tmp_path / "out", settings={"lora": {"rank": 2, "target_modules": ["q_proj"]}})
    lora = parse_manifest((folder / MANIFEST).read_bytes()).lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.target_modules) == (2, 4, ("q_proj",))


def rows(kind: str) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    if kind == "messages":
        turns = [("user", "Colour?"), ("assistant", "red")]
        return [{"messages": [{"role": role, "content": text} for role, text in turns]}] * 8, {}
    return [{"q": "1", "a": "red"}] * 8, {"prompt_format": {"prompt": "{{q}}:", "completion": " {{a}}"}}


@pytest.mark.parametrize("kind", ["messages", "columns"])
def test_each_shape_of_examples_is_trained_on(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    examples, settings = rows(kind)
    folder, _ = trained(tiny_llama, tmp_path / "out", examples=examples, settings=settings)
    assert parse_manifest((folder / MANIFEST).read_bytes()).example_format == kind


@pytest.mark.parametrize("name", ["examples.jsonl", "examples.csv"])
def test_a_file_trains_as_its_examples_do(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".csv"):
        file.write_text("prompt,completion\n" + "".join(f"{e['prompt']},{e['completion']}\n" for e in EXAMPLES))
    else:
        file.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    from_file, _ = trained(tiny_llama, tmp_path / "file", examples=str(file))
    from_values, _ = trained(tiny_llama, tmp_path / "values")
    one, two = load_file(from_file / WEIGHTS), load_file(from_values / WEIGHTS)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_it_goes_on_from_an_adapter(tiny_llama: Path, tmp_path: Path, adapter: Path) -> None:
    settings = {"n_epochs": 1, "learning_rate": 1e-6, "n_evals": 1}
    folder = finetune(tiny_llama, EXAMPLES[:4], settings, out=tmp_path / "out", continue_from=adapter)
    before, after = load_file(adapter / WEIGHTS), load_file(folder / WEIGHTS)
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    other = write_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(AdapterInvalid, match="fingerprint"):
        finetune(other, EXAMPLES[:4], settings, out=tmp_path / "not", continue_from=adapter)
    with pytest.raises(AdapterInvalid, match=r"manifest\.json is missing"):
        finetune(tiny_llama, EXAMPLES[:4], settings, out=tmp_path / "not", continue_from=tmp_path)


@pytest.mark.parametrize(
    ("examples", "settings", "error", "words"),
    [
        (EXAMPLES, {"n_epoch": 1}, ValidationError, "n_epoch"),
        (EXAMPLES, {"learning_rate": 1e-3, "learning_rate_multiplier": 2}, InvalidParameter, "learning_rate"),
        (EXAMPLES, {"prompt_format": {"prompt": "a", "completion": "b"}}, InvalidParameter, "takes no prompt format"),
        ([{"q": 1, "a": 2}], {}, InvalidParameter, "examples holds columns"),
        ([], {}, ExampleInvalid, "holds no examples"),
        ([*EXAMPLES, {"prompt": "alone"}], {}, ExampleInvalid, "line 25"),
        (["not a dict"], {}, ExampleInvalid, "JSON object"),
        (EXAMPLES, {"max_length": 8}, AllExamplesDropped, "max_length"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(
    tiny_llama: Path, tmp_path: Path, examples: Any, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        finetune(tiny_llama, examples, settings, out=tmp_path / "sub" / "out")
    assert not (tmp_path / "sub").exists() or list((tmp_path / "sub").iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    def interrupt(message: Message) -> None:
        if isinstance(message, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_llama, EXAMPLES, QUICK, out=tmp_path / "sub" / "out", progress=interrupt)
    assert list((tmp_path / "sub").iterdir()) == []


def test_nothing_is_written_over(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="of its own"):
        finetune(tiny_llama, EXAMPLES, QUICK, out=tmp_path)


def test_a_model_as_transformers_saved_it_is_trained_and_asked(tiny_llama: Path, tmp_path: Path) -> None:
    saved = shutil.copytree(tiny_llama, tmp_path / "saved")
    (saved / "loramill.json").unlink()
    folder, _ = trained(saved, tmp_path / "out")
    with LLM(saved, adapters=[folder]) as llm:
        assert len(llm.generate("Colour", adapter=folder, max_tokens=2)[0].ids) > 0
