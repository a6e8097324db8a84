import pytest
from pydantic import ValidationError

from core.jobs.events import EventLevel
from tests.harness.fake_trainer import MEASURED
from tests.worker.jobs.step_messages import step_done
from worker.trainer_process.messages import (
    CheckpointWritten,
    Evaluated,
    Failed,
    Finished,
    HeldOutAnswer,
    HeldOutAnswers,
    Interrupted,
    KeepAlive,
    Message,
    Note,
    PhaseStarted,
    Resumed,
    Said,
    format_line,
    parse,
)

ALL: tuple[Message, ...] = (
    PhaseStarted(name="loading"),
    Note(level=EventLevel.WARN, message="a\nb", data={"lines": [1, 2]}),
    step_done(),
    Evaluated(step=0, loss=1.0, token_accuracy=0.5, tokens=3, examples=1, exact_match=0.5, stop_rate=1.0),
    HeldOutAnswers(step=0, answers=(HeldOutAnswer(prompt="1+1=", expected=" 2", got=" 3", stopped=True, exact=False),)),
    CheckpointWritten(step=1, folder="/x", metrics={"step": 1.0}),
    Resumed(step=1, folder="/x"),
    Finished(folder="/x", steps=2, adapter_step=1, trained_on="…", trained_tokens=9, metrics={}, measured=MEASURED),
    Failed(code="out_of_memory", message="x", lines=(1, 2)),
    Interrupted(),
    KeepAlive(),
)


@pytest.mark.parametrize("message", ALL, ids=lambda message: message.type)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = format_line(message, run=2)
    assert line.count(b"\n") == 1
    assert parse(line) == Said(run=2, message=message)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"loading...",
        b'{"type":"phase","name":"x"}',
        b'{"run":0,"message":{"type":"unknown"}}',
        b'{"run":0,"message":{"type":"phase","name":"x","more":1}}',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        parse(line)


def test_an_evaluation_without_samples_is_read_as_one() -> None:
    old = b'{"type":"evaluated","step":0,"loss":1.0,"token_accuracy":0.5,"tokens":3,"examples":1}'
    said = parse(b'{"run":0,"message":%b}' % old)
    assert said.message == Evaluated(step=0, loss=1.0, token_accuracy=0.5, tokens=3, examples=1)
