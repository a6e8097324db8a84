"""The example data is what its generator writes and fit for training, its job a valid request, and each script runs."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.fine_tuning.schemas import JobCreate
from core.base_models.registry import Registry
from core.text.files.examples import PromptCompletion
from core.text.files.jsonl import JSONL
from core.text.files.read import read_examples
from examples import generate
from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_llama
from tests.harness.models.trials import no_trials

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KEYS = ["room", "day", "start", "people"]


def read(name: str) -> list[PromptCompletion]:
    examples = [example for example in read_examples(EXAMPLES / name, JSONL) if isinstance(example, PromptCompletion)]
    assert len(examples) == len((EXAMPLES / name).read_text("utf-8").splitlines())
    return examples


TRAIN, HELD_OUT = read("train.jsonl"), read("heldout.jsonl")


def test_the_generator_writes_the_same_bytes_again(tmp_path: Path) -> None:
    generate.write(tmp_path)
    for name in ("train.jsonl", "heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_another_seed_gives_other_examples() -> None:
    assert generate.make_examples(generate.SEED) != generate.make_examples(generate.SEED + 1)


def test_nothing_held_out_was_trained_on() -> None:
    assert not {example.prompt for example in TRAIN} & {example.prompt for example in HELD_OUT}
    assert not {example.completion for example in TRAIN} & {example.completion for example in HELD_OUT}
    assert len({example.prompt for example in TRAIN + HELD_OUT}) == len(TRAIN) + len(HELD_OUT) == 460


def test_prompt_and_completion_meet_at_a_space() -> None:
    for example in TRAIN + HELD_OUT:
        assert example.prompt.endswith("\nRecord:")
        assert example.completion.startswith(' {"room":')


def test_every_record_is_json_with_the_same_keys_in_order() -> None:
    for example in TRAIN + HELD_OUT:
        assert list(json.loads(example.completion)) == KEYS


def values(examples: list[PromptCompletion], key: str) -> set[Any]:
    return {json.loads(example.completion)[key] for example in examples}


@pytest.mark.parametrize("key", KEYS)
def test_training_shows_every_value_that_is_asked_for(key: str) -> None:
    assert values(HELD_OUT, key) <= values(TRAIN, key)
    assert None in values(HELD_OUT, key)


def test_the_job_is_a_valid_request_for_a_built_in_model(tmp_path: Path) -> None:
    fields = json.loads((EXAMPLES / "job.json").read_text("utf-8"))
    job = JobCreate.model_validate({**fields, "training_file": "file-abc"})
    assert job.model in Registry.load(tmp_path).names


def test_the_readme_shows_a_real_example() -> None:
    text = (EXAMPLES / "README.md").read_text("utf-8")
    assert any(example.prompt + example.completion in text for example in TRAIN)


def test_the_shell_client_parses() -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / "clients" / "curl.sh")], check=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to run the scripts in, with a tiny base model; what one leaves there is there for the next."""
    folder = tmp_path_factory.mktemp("scripts")
    write_tiny_llama(folder / "tiny-llama")
    share_kernels(folder / "var")
    with no_trials():
        yield folder


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a script on the tiny model as `python examples/….py` would, and gives what it printed."""

    def run_script(name: str) -> str:
        monkeypatch.chdir(here)
        monkeypatch.setenv("LORAMILL_HOME", str(here / "var"))
        monkeypatch.setattr(sys, "argv", [name, "tiny-llama", "24"])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_the_first_script_shows_each_token_with_its_weight(run: Callable[[str], str]) -> None:
    shown = run("01_look_at_labels.py")
    trained = re.findall(r"^prompt_loss_weight (\S+): (\d+) of (\d+) tokens", shown, re.MULTILINE)
    assert [weight for weight, _, _ in trained] == ["0", "0.1", "1"]
    completion, some, every = (int(count) for _, count, _ in trained)
    assert completion < some == every  # all but the first token, which nothing predicts
    assert "  0.1  prompt " in shown


def test_the_scripts_train_ask_and_mix_two_adapters(run: Callable[[str], str], here: Path) -> None:
    trained = run("02_train.py")
    steps = re.findall(r"^step (\d+)/6  loss (\S+)", trained, re.MULTILINE)
    assert [int(step) for step, _ in steps] == list(range(1, 7))
    assert "adapter_model.safetensors" in trained
    asked = run("03_ask.py")
    assert asked.count('  expected \' {"room":') == asked.count("  adapter  ") == asked.count("  base     ") == 5
    mixed = run("04_two_adapters_in_one_batch.py")
    answers = re.findall(r"^  (base|desk|rooms) +(.*) \(", mixed, re.MULTILINE)
    assert [who for who, _ in answers] == ["base", "desk", "rooms"]
    assert {path.name for path in (here / "var" / "examples").iterdir()} == {"desk", "rooms"}


@pytest.mark.slow
def test_the_comparison_says_what_it_saw_and_no_more(run: Callable[[str], str]) -> None:
    said = run("05_compare_two_weights.py")
    losses = re.findall(r"^prompt_loss_weight ([01]): (\d\.\d{4}) nats per token, (\d+) right", said, re.MULTILINE)
    assert [weight for weight, _, _ in losses] == ["0", "1"]
    assert said.startswith("trained on 24 examples, scored on 60 held-out answers\n")
    assert said.endswith("not enough to say which is better in general.\n")
