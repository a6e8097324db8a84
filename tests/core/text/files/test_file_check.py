import pickle

from hypothesis import given
from hypothesis import strategies as st

from core.text.files.examples import LineProblem
from core.text.files.file_check import FileReport, LineChecker
from core.text.files.jsonl import read_line

GOOD = b'{"prompt": "a", "completion": "b"}'
MESSAGES = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def check(*chunks: bytes, max_line_bytes: int = 2**20) -> FileReport:
    checker = LineChecker(read_line, max_line_bytes)
    for chunk in chunks:
        checker.feed(chunk)
    return checker.finish()


def problems(report: FileReport) -> list[tuple[int, str]]:
    return [(problem.line, problem.reason) for problem in report.problems]


def test_counts_examples_and_names_the_format() -> None:
    assert check(GOOD + b"\n" + GOOD + b"\n") == FileReport(2, "prompt_completion", None, (), 0)


def test_last_newline_crlf_blank_lines_and_byte_order_mark_do_not_matter() -> None:
    assert check(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n \t\n" + GOOD) == FileReport(2, "prompt_completion", None, (), 0)


def test_a_byte_order_mark_later_on_is_a_problem() -> None:
    assert [line for line, _ in problems(check(GOOD + b"\n\xef\xbb\xbf" + GOOD))] == [2]


def test_columns_are_those_of_every_example() -> None:
    report = check(b'{"q": "1", "a": "2", "note": null}\n{"a": "2", "q": "1", "more": 3}\n')
    assert (report.format, report.columns) == ("columns", ("q", "a"))


def test_another_format_is_a_problem_on_its_line() -> None:
    report = check(b"\n".join([GOOD, MESSAGES, GOOD]))
    assert report.examples == 2
    ((line, reason),) = problems(report)
    assert line == 2
    assert '"messages"' in reason
    assert '"prompt_completion"' in reason


def test_a_file_without_examples_has_one_problem() -> None:
    for empty in (b"", b"\n \r\n", b"\xef\xbb\xbf"):
        report = check(empty)
        assert report.format is None
        assert report.problem_count == 1
        assert "holds no examples" in report.problems[0].reason


def test_first_twenty_problems_are_kept_and_all_are_counted() -> None:
    report = check(b"[]\n" * 50 + GOOD)
    assert (report.examples, report.problem_count) == (1, 50)
    assert [line for line, _ in problems(report)] == list(range(1, 21))


def test_an_over_long_line_is_one_problem_and_the_next_line_counts() -> None:
    long_line = b'{"prompt": "' + b"x" * 2**21 + b'", "completion": "b"}'
    report = check(long_line + b"\n" + GOOD)
    assert report.examples == 1
    assert problems(report) == [(1, "the line is longer than 1,048,576 bytes")]


def test_a_line_of_exactly_the_limit_is_allowed() -> None:
    assert check(GOOD, max_line_bytes=len(GOOD)).examples == 1
    assert check(GOOD, max_line_bytes=len(GOOD) - 1).problem_count == 1


def test_an_endless_line_is_not_kept_in_memory() -> None:
    checker = LineChecker(read_line, max_line_bytes=1000)
    for _ in range(100):
        checker.feed(b"x" * 1000)
    assert len(checker._begun) <= 1000


@given(
    lines=st.lists(st.sampled_from([GOOD, MESSAGES, b"", b"\xff", b"[]", b"x" * 200, '{"é": "日"}'.encode()])),
    end=st.sampled_from([b"\n", b"\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
def test_where_the_file_is_cut_does_not_matter(lines: list[bytes], end: bytes, mark: bytes, cuts: list[int]) -> None:
    whole = mark + end.join(lines)
    chunks: list[bytes] = []
    at = 0
    while at < len(whole):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(whole[at : at + size])
        at += size
    at_once, in_pieces = check(whole, max_line_bytes=100), check(*chunks, max_line_bytes=100)
    assert problems(in_pieces) == problems(at_once)
    assert (in_pieces.examples, in_pieces.format, in_pieces.columns, in_pieces.problem_count) == (
        at_once.examples,
        at_once.format,
        at_once.columns,
        at_once.problem_count,
    )


def test_a_problem_crosses_process_borders() -> None:
    copy = pickle.loads(pickle.dumps(LineProblem(3, "odd")))
    assert (copy.line, copy.reason, str(copy)) == (3, "odd", "line 3: odd")
