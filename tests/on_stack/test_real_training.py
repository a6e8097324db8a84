"""A pretrained model on real data, through the HTTP interface: it learns, and its answers end by themselves."""

import itertools
import json
import os
from pathlib import Path

import pytest

from core.jobs.status import TERMINAL
from tests.harness.servers.stack import eventually, running_stack, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BASE = "smollm2-135m-instruct"


def every_nth(path: Path, count: int, target: Path) -> Path:
    """Write ``count`` lines spread evenly over a file: neighbours there describe the same restaurant."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    step = len(lines) // count
    target.write_text("".join(itertools.islice(lines[::step], count)), encoding="utf-8")
    return target


def test_one_epoch_on_restaurants_lowers_the_loss_and_answers_stop(
    smollm2_folder: Path, e2e_folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "base-models").mkdir(parents=True)
    (home / "base-models" / BASE).symlink_to(smollm2_folder, target_is_directory=True)
    validation = every_nth(e2e_folder / "valid.jsonl", 100, tmp_path / "valid.jsonl")
    training = every_nth(e2e_folder / "train.jsonl", 400, tmp_path / "train.jsonl")
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    with running_stack(home, LORAMILL_BASE_MODELS=BASE, **threads) as stack, stack.client() as client:
        job = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=upload(client, training),
            validation_file=upload(client, validation),
            seed=7,
            hyperparameters={"n_epochs": 1},
        )
        eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in TERMINAL, "the job's end", 1500)
        ended = client.fine_tuning.jobs.retrieve(job.id)
        assert ended.status == "succeeded", ended.error
        assert ended.fine_tuned_model is not None
        events = client.fine_tuning.jobs.list_events(job.id, limit=100)
        losses = {
            event.data["step"]: event.data["full_valid_loss"]
            for event in events
            if isinstance(event.data, dict) and "full_valid_loss" in event.data
        }
        first, last = losses[0], losses[max(losses)]
        print(f"validation loss on completions: {first:.4f} before, {last:.4f} after; {losses}")
        assert last <= 0.75 * first

        lines = validation.read_text(encoding="utf-8").splitlines()
        prompts = list(dict.fromkeys(json.loads(line)["prompt"] for line in lines))[:10]
        answers = client.completions.create(model=ended.fine_tuned_model, prompt=prompts, max_tokens=120, temperature=0)
        for choice in answers.choices:
            print(repr(choice.text))
        assert [choice.finish_reason for choice in answers.choices] == ["stop"] * 10
