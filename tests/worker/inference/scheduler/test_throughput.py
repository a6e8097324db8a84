"""How fast the engine is, by its steps."""

from worker.inference.scheduler.throughput import EngineThroughput


def test_what_waits_takes_its_prompts_reading_and_answers_as_long_as_lately() -> None:
    throughput = EngineThroughput()
    throughput.note_step(1.0, 100, 0)
    throughput.note_step(1.0, 0, 10)
    throughput.note_completion(20)
    assert throughput.seconds_for(4, 2000) == 2000 / 100 + 4 * 20 / 10
    assert throughput.seconds_for(0, 0) == 0


def test_before_anything_was_measured_nobody_knows_how_long_it_takes() -> None:
    throughput = EngineThroughput()
    assert throughput.prefill_tokens_per_s is throughput.decode_tokens_per_s is None
    assert throughput.seconds_for(4, 2000) is None


def test_of_what_was_measured_in_part_only_that_part_is_told() -> None:
    throughput = EngineThroughput()
    throughput.note_step(1.0, 100, 0)
    assert throughput.seconds_for(4, 2000) == 2000 / 100


def test_a_step_of_both_kinds_is_divided_by_its_tokens() -> None:
    throughput = EngineThroughput()
    throughput.note_step(1.0, 30, 10)
    assert (throughput.prefill_tokens_per_s, throughput.decode_tokens_per_s) == (40, 40)
