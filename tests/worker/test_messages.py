import pytest
from pydantic import ValidationError

from core.events import EventLevel
from tests.fake_trainer import MEASURED
from worker.messages import (
    Alive,
    CheckpointWritten,
    Evaluated,
    Failed,
    Finished,
    Message,
    Note,
    Phase,
    Resumed,
    Sample,
    Sampled,
    StepDone,
    StepSeconds,
    format_line,
    parse,
)

ALL: tuple[Message, ...] = (
    Phase(name="loading"),
    Note(level=EventLevel.WARN, message="a\nb", data={"lines": [1, 2]}),
    StepDone(
        step=1,
        total_steps=2,
        epoch=0.5,
        loss=1.5,
        completion_loss=1.25,
        prompt_loss=None,
        token_accuracy=0.5,
        learning_rate=1e-3,
        grad_norm=2.0,
        trained_tokens=3,
        seen_tokens=4,
        padding_tokens=1,
        tokens_per_s=5.0,
        mfu=0.5,
        seconds=StepSeconds(total=1.0, data=0.1, forward=0.3, backward=0.5, optimizer=0.1),
        eta_s=6.0,
        memory_bytes=7,
    ),
    Evaluated(step=0, loss=1.0, token_accuracy=0.5, tokens=3, examples=1, exact_match=0.5, stop_rate=1.0),
    Sampled(step=0, samples=(Sample(prompt="1+1=", expected=" 2", got=" 3", stopped=True, exact=False),)),
    CheckpointWritten(step=1, folder="/x", metrics={"step": 1.0}),
    Resumed(step=1, folder="/x"),
    Finished(folder="/x", steps=2, adapter_step=1, trained_on="…", trained_tokens=9, metrics={}, measured=MEASURED),
    Failed(code="out_of_memory", message="x", lines=(1, 2)),
    Alive(),
)


@pytest.mark.parametrize("message", ALL, ids=lambda message: message.type)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = format_line(message)
    assert line.count(b"\n") == 1
    assert parse(line) == message


@pytest.mark.parametrize("line", [b"", b"loading...", b'{"type":"unknown"}', b'{"type":"phase","name":"x","more":1}'])
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        parse(line)


def test_an_evaluation_without_samples_is_read_as_one() -> None:
    old = b'{"type":"evaluated","step":0,"loss":1.0,"token_accuracy":0.5,"tokens":3,"examples":1}'
    assert parse(old) == Evaluated(step=0, loss=1.0, token_accuracy=0.5, tokens=3, examples=1)
