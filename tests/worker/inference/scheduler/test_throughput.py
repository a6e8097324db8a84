"""How fast the engine is, by its steps."""

from worker.inference.scheduler.throughput import Speed


def test_what_waits_takes_its_prompts_reading_and_answers_as_long_as_lately() -> None:
    speed = Speed()
    speed.note_step(1.0, 100, 0)
    speed.note_step(1.0, 0, 10)
    speed.note_answer(20)
    assert speed.seconds_for(4, 2000) == 2000 / 100 + 4 * 20 / 10
    assert speed.seconds_for(0, 0) == 0


def test_before_anything_was_measured_nothing_takes_time() -> None:
    assert Speed().seconds_for(4, 2000) == 0


def test_a_step_of_both_kinds_is_divided_by_its_tokens() -> None:
    speed = Speed()
    speed.note_step(1.0, 30, 10)
    assert (speed.prefill_tokens_per_s, speed.decode_tokens_per_s) == (40, 40)
