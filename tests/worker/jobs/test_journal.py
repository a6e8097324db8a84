from typing import Any

from core.jobs.events import EventType, JobEvent
from tests.worker.jobs.step_messages import step_done
from worker.jobs.journal import Journal
from worker.trainer_process.messages import Evaluated, HeldOutAnswer, HeldOutAnswers, Message

EVALUATED = Evaluated(step=5, loss=0.5, token_accuracy=0.75, tokens=9, examples=3)
STEP = step_done(step=5, total_steps=10, prompt_loss=2.0, mfu=0.4)


def _take(message: Message) -> tuple[JobEvent, dict[str, Any]]:
    journal = Journal()
    journal.take(message)
    [event] = journal.pending
    return event, journal.progress


def test_a_steps_training_loss_is_the_one_that_validation_loss_compares_with() -> None:
    event, progress = _take(STEP)
    assert (event.type, event.message) == (EventType.METRICS, "Step 5/10: training loss=1.2500")
    assert event.data == progress
    assert (progress["train_loss"], progress["loss"], progress["train_mean_token_accuracy"]) == (1.25, 1.5, 0.5)
    assert (progress["mfu"], progress["seconds"]["forward"], progress["prompt_loss"]) == (0.4, 0.3, 2.0)


def test_an_evaluation_tells_of_samples_only_where_there_are_some() -> None:
    event, progress = _take(EVALUATED)
    assert event.data is not None
    assert "exact_match" not in event.data
    _, progress = _take(EVALUATED.model_copy(update={"exact_match": 0.5, "stop_rate": 1.0}))
    assert (progress["full_valid_loss"], progress["exact_match"], progress["stop_rate"]) == (0.5, 0.5, 1.0)


def test_samples_show_what_was_asked_expected_and_answered() -> None:
    right = HeldOutAnswer(prompt="1+1=", expected=" 2", got=" 2", stopped=True, exact=True)
    wrong = HeldOutAnswer(prompt="1+2=", expected=" 3", got=" 4", stopped=True, exact=False)
    long = HeldOutAnswer(prompt="Tell", expected="Once", got="Once upon", stopped=None, exact=None)
    event, _ = _take(HeldOutAnswers(step=5, answers=(right, wrong, long)))
    assert event.message == (
        "Step 5: 3 held-out prompts answered; of 2 whose completion is short enough to compare, "
        "1 exactly, 2 ended by the model itself"
    )
    assert event.data is not None
    assert event.data["samples"][0] == right.model_dump()


def test_a_loss_of_nothing_is_a_dash_in_words_and_null_in_numbers() -> None:
    event, progress = _take(Evaluated(step=5, loss=None, token_accuracy=None, tokens=0, examples=3))
    assert event.message == "Step 5: validation loss=–"
    assert progress == {"full_valid_loss": None, "full_valid_mean_token_accuracy": None}
    event, progress = _take(step_done(step=5, total_steps=10, completion_loss=None, token_accuracy=None))
    assert event.message == "Step 5/10: training loss=–"
    assert progress["train_loss"] is progress["train_mean_token_accuracy"] is None
