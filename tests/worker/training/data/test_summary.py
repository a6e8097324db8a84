from worker.training.data.summary import LINES_NAMED, DataSummary, name_lines


def test_says_what_the_adapter_is_trained_on() -> None:
    summary = DataSummary(500, 12_431, 500, 48_210, dropped_lines=[17, 80, 312])
    assert summary.sentence(0.0) == (
        "12,431 completion tokens of 500 examples, 500 closing tokens; 48,210 prompt tokens seen, weight 0; "
        "3 examples dropped as over-length (lines 17, 80, 312)"
    )


def test_first_tokens_are_not_said_to_be_trained_with_the_prompt() -> None:
    assert DataSummary(500, 12_431, 500, 48_210).sentence(0.1) == (
        "12,431 completion tokens of 500 examples, 500 closing tokens; 47,710 prompt tokens seen, weight 0.1; "
        "500 first tokens, which nothing predicts"
    )


def test_many_lines_are_named_in_part() -> None:
    assert name_lines(range(1, LINES_NAMED + 1)).endswith(f" {LINES_NAMED}")
    assert name_lines(range(1, LINES_NAMED + 2)).endswith(f" {LINES_NAMED}, …")
    assert name_lines([7]) == "line 7"
