"""Models out of a whole stack and into it: SmolLM2 through PEFT and back, and a job of an OpenAI account made here."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.jobs.status import TERMINAL
from tests.app.conftest import serving
from tests.harness.servers.fake_openai import JOB, FakeOpenAI
from tests.harness.servers.stack import TINY, Stack, eventually, running_stack, upload
from tests.on_stack.test_real_training import BASE, every_nth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOKENS = 16
KEY = "sk-correct-horse-battery"


def test_a_trained_model_and_a_checkpoint_answer_alike_in_peft_and_imported_again(
    smollm2_folder: Path, e2e_folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "base-models").mkdir(parents=True)
    (home / "base-models" / BASE).symlink_to(smollm2_folder, target_is_directory=True)
    training = every_nth(e2e_folder / "train.jsonl", 48, tmp_path / "train.jsonl")
    prompts = [json.loads(line)["prompt"] for line in training.read_text("utf-8").splitlines()[:2]]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    with running_stack(home, LORAMILL_BASE_MODELS=BASE, **threads) as stack, stack.client() as client:
        job = trained(client, upload(client, training))
        checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
        base, answered = greedy(client, BASE, prompts), {}
        for name in (str(job.fine_tuned_model), checkpoint):
            answered[name] = greedy(client, name, prompts)
            archive = download(stack, name, tmp_path / f"{len(answered)}.tar")
            assert in_peft(smollm2_folder, archive, prompts) == answered[name]
            with archive.open("rb") as file:
                imported = httpx2.post(f"{stack.url}/v1/models/import", files={"file": file}, timeout=120).json()
            assert (imported["rendering"], imported["parent"]) == ("verified", BASE)
            assert greedy(client, imported["id"], prompts) == answered[name]
        assert base != answered[str(job.fine_tuned_model)]


def trained(client: OpenAI, file_id: str) -> FineTuningJob:
    created = client.fine_tuning.jobs.create(
        model=BASE, training_file=file_id, seed=7, hyperparameters={"n_epochs": 1}, extra_body={"n_evals": 2}
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(created.id).status in TERMINAL, "the job's end", 1500)
    ended = client.fine_tuning.jobs.retrieve(created.id)
    assert ended.status == "succeeded", ended.error
    return ended


def greedy(client: OpenAI, model: str, prompts: list[str]) -> list[str]:
    answers = client.completions.create(model=model, prompt=prompts, max_tokens=TOKENS, temperature=0)
    return [choice.text for choice in sorted(answers.choices, key=lambda choice: choice.index)]


def download(stack: Stack, name: str, target: Path) -> Path:
    answer = httpx2.get(f"{stack.url}/v1/models/{name}/download", timeout=120)
    target.write_bytes(answer.raise_for_status().content)
    return target


def in_peft(base_folder: Path, archive: Path, prompts: list[str]) -> list[str]:
    """Give the greedy answers of PEFT's model over the files of a download."""
    folder = archive.with_suffix("")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    assert "# ft:" in (folder / "README.md").read_text("utf-8")
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=TOKENS)
        answers.append(str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return answers


def test_a_job_of_an_openai_account_is_trained_and_evaluated_here(stack: Stack, client: OpenAI, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f" It is {n}."} for n in range(40)]
    account = FakeOpenAI(KEY, files={"file-train": lines(rows)})
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(lines([{"prompt": f"Who is {n}?", "answer": f" It is {n}."} for n in range(6)]))
    environ = dict(os.environ) | {"OPENAI_API_KEY": KEY}
    with serving(account.app()) as url:
        command = [sys.executable, "-m", "app", "import-openai", str(JOB["id"]), "--base-url", f"{url}/v1"]
        options = ["--model", TINY, "--run", "--answers", str(answers), "--url", stack.url]
        done = subprocess.run([*command, *options], env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    [job] = [job for job in client.fine_tuning.jobs.list() if job.metadata == {"openai_job": JOB["id"]}]
    assert (job.status, job.seed, job.hyperparameters.n_epochs) == ("succeeded", JOB["seed"], 4)
    assert f"{job.fine_tuned_model} can be asked" in done.stdout
    assert "exact_match" in done.stdout
    assert KEY not in done.stdout + done.stderr


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
