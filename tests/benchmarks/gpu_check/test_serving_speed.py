from benchmarks.gpu_check.serving_speed import gains, speeds
from benchmarks.serving.steps import StepTimings


def test_tokens_a_second_are_rows_through_a_steps_time() -> None:
    measured = {"graphs base 8": StepTimings([0.02, 0.04, 0.04]), "first token": StepTimings([1.0])}
    assert speeds(measured) == {"graphs base 8": 200.0}


def test_the_gain_of_graphs_is_how_much_longer_a_step_takes_without() -> None:
    measured = {
        "graphs r8 8": StepTimings([0.25]),
        "graphs prefill r16": StepTimings([0.5]),
        "eager r8 8": StepTimings([1.0, 1.0, 2.0]),
        "eager prefill r16": StepTimings([0.5]),
    }
    assert gains(measured) == {"r8 8": 4.0}
