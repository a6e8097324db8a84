"""A trainer without torch that speaks the worker's messages; the training file's first line says how it behaves."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from core.estimates.estimate import Machine, Measured, Seconds
from core.jobs.events import EventLevel
from core.provenance.record import Provenance, Rendered, Stint
from core.serving.adapter_format import CONFIG, WEIGHTS, AdapterOrigin, write_manifest
from worker.trainer_process.host_faults import find_host_fault
from worker.trainer_process.messages import (
    CheckpointWritten,
    Failed,
    Finished,
    Interrupted,
    Message,
    Note,
    PhaseStarted,
    Resumed,
    StepDone,
    StepSeconds,
    format_line,
)
from worker.trainer_process.run_folder import (
    ADAPTER,
    CHECKPOINTS,
    EXIT_AGAIN,
    EXIT_DONE,
    EXIT_FAILED,
    RESULTS,
    STOP,
    RunSpec,
    read_spec,
    write_finished,
)

TORCH = "2.0"
COMMAND = (sys.executable, "-m", "tests.harness.fake_trainer")
RESULT_FILE = b"step,train_loss\n1,1.0\n"
MEASURED = Measured(
    examples=1,
    held_out_examples=0,
    seen_tokens=8,
    trained_tokens=4,
    evaluated_tokens=0,
    steps=4,
    seconds=Seconds(total=6, starting=1, rendering=1, loading=1, training=2, evaluating=0, saving=1),
    peak_memory_bytes=1,
    token_budget=64,
    machine=Machine(device="cpu", dtype="float32", memory_bytes=2**34),
    resumed_from_step=None,
)


def provenance_of(libraries: dict[str, str]) -> Provenance:
    """Give the record of a run that one machine trained."""
    return Provenance(
        training=Rendered(sha256="1" * 64, examples=1, tokens=8),
        held_out=Rendered(sha256="2" * 64, examples=0, tokens=0),
        planner_version=2,
        held_out_version=3,
        tokenizer_sha256="3" * 64,
        chat_template_sha256=None,
        stints=(Stint(from_step=0, host="here", system="Linux", environment=libraries),),
    )


class Behaviour(BaseModel):
    """What a fake run does. ``end`` happens before ``end_at_step``, in attempts up to ``end_until_token``.

    ``by_seed`` holds what is otherwise in jobs of that seed, which have the same training file.
    """

    steps: int = 4
    step_s: float = 0.02
    checkpoint_every: int = 2
    end: str | None = None  # sigkill, hang, fail, fail_by_host, unsuited, exit
    end_at_step: int = 2
    end_until_token: int = 1_000
    says: str = ""  # written to stdout
    deaf: bool = False  # ignores SIGTERM
    damages_adapter: bool = False  # changes a byte after the manifest was written
    by_seed: dict[int, dict[str, Any]] = {}


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=Path, nargs="+")
    arguments.add_argument("--events-fd", type=int)
    arguments.add_argument("--torch", default=TORCH, help="Version that it says it has; another makes other weights.")
    given = arguments.parse_args()
    runs = [FakeRun(number, folder, given.events_fd, given.torch) for number, folder in enumerate(given.folder)]
    for run in runs:
        run.listen()
    codes = [EXIT_FAILED] * len(runs)

    def go(number: int) -> None:
        codes[number] = runs[number].run_or_tell()

    if len(runs) == 1:
        return runs[0].run_or_tell()
    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes)


class FakeRun:
    def __init__(self, number: int, folder: Path, events_fd: int, torch: str) -> None:
        self._number, self._folder, self._events_fd, self._torch = number, folder, events_fd, torch
        self._spec: RunSpec = read_spec(folder)
        first_line = json.loads((folder / self._spec.training_file).read_text().splitlines()[0])
        behaviour = Behaviour.model_validate(first_line)
        own = behaviour.by_seed.get(self._spec.job.seed, {})
        self._behaviour = Behaviour.model_validate(first_line | own)
        self._has_signal = False

    @property
    def _told_to_stop(self) -> bool:
        return self._has_signal or ((self._folder / STOP).exists() and not self._behaviour.deaf)

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self._behaviour.deaf else self._on_sigterm)

    def run_or_tell(self) -> int:
        try:
            return self.run()
        except OSError as error:  # the disk's refusals are told as the real trainer tells them
            fault = find_host_fault(error, "go on with the run")
            if fault is None:
                raise
            self.say(Failed(code=fault.code, message=str(fault), of_host=True))
            return EXIT_FAILED

    def run(self) -> int:
        print(self._behaviour.says, flush=True)
        self.say(PhaseStarted(name="training"))
        self.say(Note(level=EventLevel.INFO, message=f"environment: {sorted(os.environ)}"))
        step = self._resume()
        while step < self._behaviour.steps:
            if self._spec.token <= self._behaviour.end_until_token and step + 1 == self._behaviour.end_at_step:
                self._end_early()
            if self._told_to_stop:
                self._checkpoint(step)
                self.say(Interrupted())
                return EXIT_AGAIN
            time.sleep(self._behaviour.step_s)
            step += 1
            self.say(self._step_done(step))
            if step % self._behaviour.checkpoint_every == 0:
                self._checkpoint(step)
        self._write_adapter(self._folder / ADAPTER, step)
        (self._folder / RESULTS).write_bytes(RESULT_FILE)
        finished = Finished(
            folder=str(self._folder / ADAPTER),
            steps=step,
            adapter_step=step,
            trained_on="Learnt from 4 completion tokens.",
            trained_tokens=4,
            metrics={"train_loss": 0.5},
            measured=MEASURED,
            provenance=provenance_of({"torch": self._torch}),
        )
        write_finished(self._folder, finished)
        self.say(finished)
        return EXIT_DONE

    def _on_sigterm(self, *_details: object) -> None:
        self._has_signal = True

    def _end_early(self) -> None:
        match self._behaviour.end:
            case "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                signal.pause()
            case "exit":
                sys.exit(3)
            case "fail_by_host":
                self.say(Failed(code="host_unfit", message="no space is left to go on with the run", of_host=True))
                sys.exit(EXIT_FAILED)
            case "unsuited":
                self.say(Failed(code="host_unsuited", message="it has no GPU", of_host=True, unsuited=True))
                sys.exit(EXIT_FAILED)
            case "fail":
                self.say(Failed(code="no_trained_tokens", message="no token has a weight", lines=(3, 7)))
                sys.exit(EXIT_FAILED)

    def _resume(self) -> int:
        for folder in self._spec.resume_from:
            state = Path(folder) / "state.json"
            if state.exists():
                step = int(json.loads(state.read_text())["step"])
                self.say(Resumed(step=step, folder=folder))
                return step
        return 0

    def _checkpoint(self, step: int) -> None:
        folder = self._folder / CHECKPOINTS / f"step-{step:06d}"
        if folder.exists():
            return
        self._write_adapter(folder / ADAPTER, step)
        (folder / "state.json").write_text(json.dumps({"step": step}))
        self.say(CheckpointWritten(step=step, folder=str(folder), metrics={"step": step, "train_loss": 1 / (1 + step)}))

    def _write_adapter(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True)
        weights = f"weights of step {step} by torch {self._torch}"
        (folder / WEIGHTS).write_text(weights)
        (folder / CONFIG).write_text("{}")
        write_manifest(
            folder,
            AdapterOrigin(
                base_model=self._spec.job.base_model,
                base_model_fingerprint=self._spec.base_model_fingerprint,
                tokenizer_sha256="0" * 64,
                chat_template_sha256=None,
                example_format="prompt_completion",
                prompt_format=None,
                prompts=(),
                job_id=self._spec.job_id,
                step=step,
                trained_on="",
                lora=self._spec.job.lora,
            ),
        )
        if self._behaviour.damages_adapter:
            (folder / WEIGHTS).write_text(weights.capitalize())

    def _step_done(self, step: int) -> StepDone:
        total = self._behaviour.steps
        return StepDone(
            step=step,
            total_steps=total,
            epoch=step / total,
            loss=1 / step,
            completion_loss=1 / step,
            prompt_loss=None,
            token_accuracy=0.5,
            learning_rate=1e-3,
            grad_norm=1.0,
            trained_tokens=step,
            seen_tokens=2 * step,
            padding_tokens=0,
            tokens_per_s=100.0,
            mfu=None,
            seconds=StepSeconds(total=self._behaviour.step_s, data=0, forward=0, backward=0, optimizer=0),
            eta_s=(total - step) * self._behaviour.step_s,
            memory_bytes=1,
        )

    def say(self, message: Message) -> None:
        os.write(self._events_fd, format_line(message, self._number))


if __name__ == "__main__":
    sys.exit(main())
