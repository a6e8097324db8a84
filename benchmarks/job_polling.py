"""How quickly a job's status answers while the job trains on the same machine.

Against a running stack (`make up`): ``python -m benchmarks.job_polling``. Uploads the example data
and starts a job, or takes the running one that ``--job`` names, asks for its status again and again
while it runs, as one client does that polls, and prints one JSON object.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import httpx2

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def start_job(client: httpx2.Client, model: str) -> str:
    """Upload the example data and start a job of one epoch; give its id."""
    with (EXAMPLES / "train.jsonl").open("rb") as content:
        upload = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("train.jsonl", content)})
    body = {"model": model, "training_file": upload.raise_for_status().json()["id"], "hyperparameters": {"n_epochs": 1}}
    return str(client.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"])


def poll(client: httpx2.Client, job_id: str, interval_s: float, most: int) -> tuple[list[float], str]:
    """Give the latency in milliseconds of up to ``most`` answers while the job ran, and its last status."""
    latencies_ms: list[float] = []
    while True:
        began_s = time.perf_counter()
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").raise_for_status().json()
        if job["status"] == "running":
            latencies_ms.append((time.perf_counter() - began_s) * 1000)
        if job["status"] not in ("queued", "running") or len(latencies_ms) == most:
            return latencies_ms, str(job["status"])
        time.sleep(interval_s)


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--job", help="id of a job that is under way; without it one is started")
    parser.add_argument("--interval-ms", type=float, default=50.0)
    parser.add_argument("--requests", type=int, default=1000, help="end after this many")
    options = parser.parse_args()
    with httpx2.Client(base_url=options.url, timeout=60) as client:
        job_id = options.job or start_job(client, options.model)
        latencies_ms, status = poll(client, job_id, options.interval_ms / 1000, options.requests)
    cuts = statistics.quantiles(latencies_ms, n=100)
    result = {"requests": len(latencies_ms), "job": status, "p50_ms": cuts[49], "p99_ms": cuts[98]}
    print(json.dumps({**result, "max_ms": max(latencies_ms)}))


if __name__ == "__main__":
    main()
