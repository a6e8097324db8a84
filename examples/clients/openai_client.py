"""Trains on the example data and asks the result, with the official ``openai`` package.

Set OPENAI_BASE_URL to http://127.0.0.1:8000/v1 and OPENAI_API_KEY to the deployment's key, or to any
text where it wants none. Then: ``python openai_client.py``.
"""

import json
import time
from pathlib import Path

from openai import OpenAI

EXAMPLES = Path(__file__).resolve().parents[1]


def train(client: OpenAI) -> str:
    """Run the example job to its end and give the fine-tuned model's name."""
    with (EXAMPLES / "train.jsonl").open("rb") as data:
        file = client.files.create(file=data, purpose="fine-tune")
    fields = json.loads((EXAMPLES / "job.json").read_text("utf-8"))
    job = client.fine_tuning.jobs.create(training_file=file.id, **fields)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        raise SystemExit(f"job {job.id} {job.status}: {job.error}")
    return job.fine_tuned_model


def main() -> None:
    client = OpenAI()
    model = train(client)
    print(model)
    for line in (EXAMPLES / "heldout.jsonl").read_text("utf-8").splitlines()[:3]:
        prompt = json.loads(line)["prompt"]
        answer = client.completions.create(model=model, prompt=prompt, max_tokens=64, temperature=0)
        print(f"{prompt}{answer.choices[0].text}\n")


if __name__ == "__main__":
    main()
