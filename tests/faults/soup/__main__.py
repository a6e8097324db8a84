"""Random clients and random faults on a real stack, by a seed, and what must be true when it is over.

``python -m tests.faults.soup --minutes 20 --seed 1`` runs `loramill up` on a disk of its own, small enough to be
filled where this may mount one, with real trainers of a tiny model. It ends with 0 if no accepted job was lost,
doubled or failed, every referenced byte is there and as it was, and no answer was one that a client may never see.
"""

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.soup.answers import Answers
from tests.faults.soup.chaos import Chaos, run_command
from tests.faults.soup.clients import Accepted, RandomClient
from tests.faults.soup.invariants import broken_invariants
from tests.harness.servers.stack import Stack, eventually, running_stack

_DISK_MIB = 1536
_ENVIRON = {"LORAMILL_MAX_ATTEMPTS": "100", "LORAMILL_GC_GRACE_H": "0"}
_SETTLED_WITHIN_S = 1200.0
_ENDED = frozenset({"succeeded", "failed", "cancelled"})


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk there; False where this process may not."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "loramill-soup", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(2**20))
            file.flush()


def stir(stack: Stack, *, seed: int, minutes: float, clients: int, has_small_disk: bool) -> tuple[Answers, Accepted]:
    """Let clients and chaos loose on a stack, and wait until all that was accepted has ended."""
    answers, accepted, stop = Answers(), Accepted(), threading.Event()
    ballast = stack.home / "ballast"
    fill: Callable[[], None] | None = (lambda: _fill(ballast)) if has_small_disk else None
    free: Callable[[], None] | None = (lambda: ballast.unlink(missing_ok=True)) if has_small_disk else None
    chaos = Chaos(stack, seed, fill, free)
    actors = [RandomClient(stack, seed * 1000 + number, accepted, answers).run for number in range(clients)]
    threads = [threading.Thread(target=act, args=(stop,)) for act in (*actors, chaos.run)]
    for thread in threads:
        thread.start()
    time.sleep(minutes * 60)
    stop.set()
    for thread in threads:
        thread.join()
    print(f"{len(accepted.jobs)} jobs accepted; strokes: {dict(chaos.strokes)}", flush=True)
    eventually(stack.is_ready, "readiness after the last stroke", 300)
    _settle(stack, accepted, answers)
    return answers, accepted


def _settle(stack: Stack, accepted: Accepted, answers: Answers) -> None:
    """Wait for every accepted job's end; paused ones are resumed."""
    waits = set(accepted.jobs.values())
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    ends: Counter[str] = Counter()
    while waits and time.monotonic() < deadline:
        for job_id in sorted(waits):
            try:
                status, content = stack.get(f"/v1/fine_tuning/jobs/{job_id}")
            except (OSError, http.client.HTTPException):
                continue  # what clients sent last may still be worked on
            if status == 404:
                answers.complain(f"{job_id} was accepted and is not there")
                waits.discard(job_id)
            job = json.loads(content) if status == 200 else {}
            if job.get("status") == "paused":
                stack.post(f"/v1/fine_tuning/jobs/{job_id}/resume", {})
            if job.get("status") in _ENDED:
                waits.discard(job_id)
                ends[job["status"]] += 1
                if job["status"] == "failed":
                    answers.complain(f"{job_id} failed: {job['error']}")
        time.sleep(1)
    for job_id in waits:
        answers.complain(f"{job_id} did not end within {_SETTLED_WITHIN_S:g} s after the last stroke")
    print(f"ends: {dict(ends)}", flush=True)


def main() -> int:
    """Stir, check, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-") as folder, small_disk(Path(folder)) as is_small:
        home = Path(folder) / "home"  # the disk's own folder may be anybody's
        home.mkdir()
        with running_stack(home, **_ENVIRON) as stack:
            answers, accepted = stir(
                stack,
                seed=options.seed,
                minutes=options.minutes,
                clients=options.clients,
                has_small_disk=is_small,
            )
        deep = run_command(home, stack.port, "doctor", "--deep")
        wrong = [*answers.wrong, *broken_invariants(home, accepted)]
        if deep.returncode != 0:
            wrong.append(f"doctor --deep: {deep.stdout[-2000:]}{deep.stderr[-1000:]}")
        for line in sorted(f"{count:6} {answer}" for answer, count in answers.counts.items()):
            print(line)
        print(f"disk {'filled at times' if is_small else 'never filled, as none may be mounted here'}")
        print(f"seed {options.seed}: {len(wrong)} wrong", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
