"""The example data is what its generator writes, is fit for training, and its job is a valid request."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.fine_tuning.schemas import JobCreate
from core.base_models.registry import Registry
from core.text.files.examples import PromptCompletion
from core.text.files.jsonl import JSONL
from core.text.files.read import read_examples
from examples import generate

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
