"""Each kind of finding: its lines, its numbers, and a remedy."""

import ast
import gc
import io
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import core.text
from core.text.files.examples import Chat, Columns, Example, LineProblem, Message, PromptCompletion
from core.text.files.jsonl import JSONL
from core.text.lint import file_lints
from core.text.lint.findings import LINES_NAMED, Finding
from core.text.lint.kinds import CODES, Severity, kind_of
from core.text.lint.linter import Report, lint
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.core.text.lint.conftest import Linting
from tests.core.text.test_rendering_batches import CHATS, COLUMNS, PAIRS

# Prompts and completions that have nothing to do with each other.
PLAIN = [
    PromptCompletion(1, "What boils at a hundred degrees?", " Water does, at sea level."),
    PromptCompletion(2, "Name a river in Egypt, please:", " The Nile runs through it."),
    PromptCompletion(3, "Who wrote about a white whale?", " Herman Melville, in 1851."),
]


def the_only(report: Report, code: str) -> Finding:
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, [finding.code for finding in report.findings]
    assert found[0].message
    assert found[0].remedy
    return found[0]


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def test_sound_data_give_no_finding(linting: Linting) -> None:
    assert (
        linting(PLAIN, validation=[PromptCompletion(1, "And which is the highest hill?", " Everest.")]).findings == ()
    )


class TestLines:
    """Lines that are no examples are reported from the file's bytes, and reading goes on."""

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (b'{"prompt": "a"', "malformed"),
            (b"[1]", "not_an_object"),
            (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "duplicate_key"),
            (b'{"prompt": "a", "completion": NaN}', "not_a_number"),
            (rb'{"prompt": "\ud800", "completion": "c"}', "lone_surrogate"),
            (rb'{"prompt": "\u0000", "completion": "c"}', "nul"),
            (b'{"prompt": "\xff", "completion": "c"}', "not_utf8"),
            (b'{"prompt": "a", "completion": "%s"}' % (b"x" * 500), "line_too_long"),
            (b'{"prompt": "a", "completion": ""}', "empty_completion"),
            (b'{"prompt": "a", "completion": " \\n\\t"}', "empty_completion"),
            (b'{"messages": [{"role": "user", "content": "a"}]}', "role_order"),
            (
                b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]}',
                "weight",
            ),
            (b'{"prompt": "a", "completion": "b", "mask_spans": [[0, 9]]}', "mask_span"),
            (b'{"a": %s1%s}' % (b"[" * 99, b"]" * 99), "nested_too_deeply"),
            (b'{"a": %s}' % (b"9" * 30), "number_too_large"),
            (b'{"question": "a"}', "mixed_formats"),
        ],
    )
    def test_each_problem_is_an_error_with_its_line(self, linting: Linting, line: bytes, code: str) -> None:
        good = b'{"prompt": "p%d", "completion": " c%d"}\n'
        content = io.BytesIO(good % (1, 1) + line + b"\n" + good % (3, 3) + line + b"\n")
        report = linting(JSONL.read(content, 400))
        finding = the_only(report, code)
        assert (finding.severity, finding.count, finding.lines) == (Severity.ERROR, 2, (2, 4))
        assert "line 2: " in finding.message
        assert report.statistics.examples == 2

    def test_a_file_without_lines_is_empty(self, linting: Linting) -> None:
        report = linting([])
        assert codes(report) == {"empty_file"}
        assert report.statistics.tokens is None
        assert report.recommendation.worth_trying is None

    def test_a_code_that_is_not_known_here_is_an_error_all_the_same(self, linting: Linting) -> None:
        finding = the_only(linting([*PLAIN, LineProblem(4, "it is on fire", "burning")]), "burning")
        assert (finding.severity, finding.lines) == (Severity.ERROR, (4,))
        assert "it is on fire" in finding.message

    def test_every_code_that_readers_give_has_a_remedy_of_its_own(self) -> None:
        given = set()
        for path in Path(core.text.__path__[0]).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("LineProblem"):
                    given |= {part.value for part in node.args[2:] if isinstance(part, ast.Constant)}
        assert given - CODES == set()
        assert {"malformed", "not_utf8"} <= CODES

    def test_problems_of_the_validation_file_are_its_own(self, linting: Linting) -> None:
        finding = the_only(linting(PLAIN, validation=[LineProblem(7, "no")]), "malformed")
        assert (finding.file, finding.lines) == ("validation_file", (7,))


class TestRendering:
    def test_an_example_that_cannot_be_rendered_is_an_error(self, linting: Linting) -> None:
        columns = [Columns(1, {"q": "a"}), Columns(2, {"q": "b", "a": "c"})]
        finding = the_only(
            linting(columns, prompt_format=PromptFormat(prompt="{{q}}", completion="{{a}}")), "cannot_render"
        )
        assert (finding.severity, finding.count, finding.lines) == (Severity.ERROR, 1, (1,))
        assert "line 1: " in finding.message

    def test_columns_without_a_prompt_format_cannot_be_rendered(self, linting: Linting) -> None:
        report = linting([Columns(n, {"q": "a"}) for n in range(1, 31)])
        finding = the_only(report, "cannot_render")
        assert (finding.count, finding.lines) == (30, tuple(range(1, LINES_NAMED + 1)))
        assert "prompt_format" in finding.message

    def test_braces_in_a_reason_are_shown_as_they_are(self, linting: Linting) -> None:
        report = linting([PromptCompletion(1, "p", "c{x}<|im_end|>{")])
        assert "<|im_end|>" in the_only(report, "special_token_in_text").message
        assert "{count}" in the_only(linting([LineProblem(1, "{count}")]), "malformed").message


class TestLengths:
    """The byte tokenizer gives a token for a character, and one closes each example."""

    LONG = PromptCompletion(4, "p" * 30, "c" * 9)  # 40 tokens

    def test_what_is_dropped_is_counted_with_its_tokens(self, linting: Linting) -> None:
        finding = the_only(linting([PromptCompletion(1, "p", "c"), self.LONG], max_length=39), "over_length_dropped")
        assert (finding.severity, finding.lines, finding.numbers) == (Severity.WARNING, (4,), {"tokens_lost": 40})

    def test_what_fits_exactly_is_not_reported(self, linting: Linting) -> None:
        assert linting([self.LONG], max_length=40).findings == ()

    def test_what_a_prompt_loses_is_counted(self, linting: Linting) -> None:
        report = linting([self.LONG], max_length=33, over_length="truncate_prompt")
        assert the_only(report, "prompt_truncated").numbers == {"tokens_lost": 7}
        assert codes(report) == {"prompt_truncated"}
        assert report.statistics.trained.prompt_tokens == 23

    def test_a_completion_that_leaves_no_room_is_dropped_under_either_policy(self, linting: Linting) -> None:
        report = linting([*PLAIN, self.LONG], max_length=10, over_length="truncate_prompt")
        assert 4 in the_only(report, "over_length_dropped").lines

    def test_the_policy_error_is_an_error(self, linting: Linting) -> None:
        finding = the_only(linting([self.LONG], max_length=30, over_length="error"), "over_length_refused")
        assert (finding.severity, finding.lines, finding.numbers) == (Severity.ERROR, (4,), {"tokens_over": 10})

    def test_a_prompt_that_is_too_long_by_itself_is_said(self, linting: Linting) -> None:
        examples = [PromptCompletion(1, "p" * 30, "c" * 9), PromptCompletion(2, "p" * 31, "c" * 9)]
        assert the_only(linting(examples, max_length=30), "prompt_over_max_length").lines == (2,)

    def test_nothing_left_to_train_on_is_an_error(self, linting: Linting) -> None:
        finding = the_only(linting(PLAIN, max_length=8), "nothing_to_train")
        assert finding.severity is Severity.ERROR
        assert "nothing_to_train" not in codes(linting(PLAIN))

    def test_a_validation_example_that_is_too_long_is_left_out_whatever_the_policy(self, linting: Linting) -> None:
        report = linting([PromptCompletion(1, "p", "c")], validation=[self.LONG], max_length=20, over_length="error")
        assert the_only(report, "over_length_dropped").file == "validation_file"
        assert report.count(Severity.ERROR) == 0

    def test_what_no_token_of_is_trained_is_said(self, linting: Linting) -> None:
        chats = [Chat(n, (Message("user", f"q{n}"), Message("assistant", f"a{n}", n - 1.0))) for n in (1, 2)]
        report = linting(chats)
        assert the_only(report, "no_trained_tokens").lines == (1,)
        assert report.statistics.trained.examples == 1

    def test_outliers_are_beyond_the_outer_fences(self, linting: Linting) -> None:
        usual = [PromptCompletion(n, f"{n:03}" + "p" * (n % 7), f"{n:03}" + "c" * (n % 5)) for n in range(1, 101)]
        far = [PromptCompletion(101, "p" * 300, "c"), PromptCompletion(102, "", "c")]
        report = linting([*usual, *far])
        long, short = the_only(report, "very_long"), the_only(report, "very_short")
        assert (long.lines, long.numbers) == ((101,), {"from_tokens": 302})
        assert (short.lines, short.numbers) == ((102,), {"to_tokens": 3})
        assert long.severity is Severity.INFO
        assert codes(linting(usual)).isdisjoint({"very_long", "very_short"})


class TestTexts:
    def test_an_end_token_that_a_completion_ends_in_is_said(self, linting: Linting) -> None:
        report = linting([*PLAIN, PromptCompletion(4, "p", "c<|endoftext|>")])
        assert the_only(report, "completion_ends_in_end_token").lines == (4,)
        assert "special_token_in_text" not in codes(report)

    def test_also_where_a_prompt_format_writes_it(self, linting: Linting) -> None:
        written = PromptFormat(prompt="{{q}}", completion="{{a}}")
        examples = [Columns(1, {"q": "a<|endoftext|>", "a": "b"}), Columns(2, {"q": "c", "a": "d<|endoftext|>"})]
        report = linting(examples, prompt_format=written)
        assert the_only(report, "completion_ends_in_end_token").lines == (2,)
        assert the_only(report, "special_token_in_text").lines == (1,)

    @pytest.mark.parametrize(
        "example",
        [
            PromptCompletion(4, "p<|im_start|>", "c"),
            PromptCompletion(4, "p", "c<|endoftext|>c"),
            PromptCompletion(4, "p", "c<|endoftext|>\n"),
            PromptCompletion(4, "p", "c<|im_end|>", ((0, 1),)),
        ],
    )
    def test_special_tokens_inside_a_text_are_said(self, linting: Linting, example: Example) -> None:
        finding = the_only(linting([*PLAIN, example]), "special_token_in_text")
        assert (finding.severity, finding.lines) == (Severity.WARNING, (4,))

    def test_the_chat_templates_own_tokens_are_not_the_texts(self, linting: Linting) -> None:
        assert linting([Chat(1, (Message("user", "hi"), Message("assistant", "yo")))]).findings == ()

    def test_a_completion_of_nothing_but_the_end_token_is_blank(self, linting: Linting) -> None:
        assert the_only(linting([*PLAIN, PromptCompletion(4, "p", " <|endoftext|>")]), "blank_completion").lines == (4,)

    def test_a_prompt_that_ends_in_a_space_is_said(self, linting: Linting) -> None:
        examples = [PromptCompletion(1, "a ", "1"), PromptCompletion(2, "b\n", "2"), PromptCompletion(3, "c\t", "3")]
        assert the_only(linting(examples), "prompt_ends_in_space").lines == (1, 3)

    def test_spaces_that_the_renderer_moves_are_counted(self, linting: Linting) -> None:
        report = linting(
            [Columns(3, {"q": "a", "r": "b"})], prompt_format=PromptFormat(prompt="{{q}} ", completion="{{r}}")
        )
        finding = the_only(report, "space_moved")
        assert (finding.severity, finding.lines) == (Severity.INFO, (3,))


class TestRepetitions:
    def test_an_exact_repetition_is_said_once(self, linting: Linting) -> None:
        again = PromptCompletion(4, PLAIN[1].prompt, PLAIN[1].completion)
        finding = the_only(linting([*PLAIN, again]), "duplicate")
        assert (finding.count, finding.lines) == (1, (4,))
        assert "line 2" in finding.message
        assert codes(linting([*PLAIN, again])) == {"duplicate"}

    def test_the_boundary_between_prompt_and_completion_matters(self, linting: Linting) -> None:
        report = linting([PromptCompletion(1, "a b", " c"), PromptCompletion(2, "a", " b c")])
        assert codes(report) == {"near_duplicate"}

    def test_a_prompt_with_two_completions_is_a_conflict(self, linting: Linting) -> None:
        report = linting([*PLAIN, PromptCompletion(4, PLAIN[0].prompt, " Alcohol boils much sooner than it.")])
        assert the_only(report, "conflicting_completions").lines == (4,)
        assert codes(report) == {"conflicting_completions"}

    def test_conversations_conflict_in_their_last_answer(self, linting: Linting) -> None:
        begun = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
        chats = [Chat(n, (*begun, Message("assistant", answer))) for n, answer in enumerate(["x", "y", "x"], start=1)]
        report = linting(chats)
        assert the_only(report, "conflicting_completions").lines == (2,)
        assert the_only(report, "duplicate").lines == (3,)

    def test_what_differs_in_spelling_only_is_a_near_duplicate(self, linting: Linting) -> None:
        report = linting([*PLAIN, PromptCompletion(4, "WHAT  boils, at a hundred degrees", " water does at sea level")])
        finding = the_only(report, "near_duplicate")
        assert (finding.severity, finding.lines) == (Severity.INFO, (4,))
        assert "line 1" in finding.message

    def test_overlap_with_the_validation_file_names_its_lines(self, linting: Linting) -> None:
        validation = [
            PromptCompletion(1, PLAIN[0].prompt, PLAIN[0].completion),
            PromptCompletion(2, PLAIN[1].prompt.upper(), PLAIN[1].completion + " "),
            PromptCompletion(3, PLAIN[2].prompt, " Somebody else did."),
            PromptCompletion(4, "Something new:", " indeed"),
        ]
        report = linting(PLAIN, validation=iter(validation))
        found = {finding.code: (finding.file, finding.lines) for finding in report.findings}
        assert found == {
            "validation_overlap": ("validation_file", (1,)),
            "validation_overlap_normalised": ("validation_file", (2,)),
            "validation_prompt_overlap": ("validation_file", (3,)),
        }
        assert all(finding.severity is Severity.WARNING for finding in report.findings)

    def test_beyond_the_cap_nothing_is_compared_and_that_is_said(
        self, linting: Linting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_lints, "COMPARED_EXAMPLES", 2)
        report = linting([PLAIN[0], PLAIN[0], PLAIN[0], PLAIN[0]])
        assert the_only(report, "duplicate").count == 1
        finding = the_only(report, "comparison_capped")
        assert (finding.severity, finding.count) == (Severity.INFO, 2)

    def test_the_caps_message_names_the_cap(self) -> None:
        assert f"{file_lints.COMPARED_EXAMPLES:,}" in kind_of("comparison_capped").message


class TestLabels:
    def test_an_uneven_distribution_is_a_warning(self, linting: Linting) -> None:
        examples = [PromptCompletion(n, f"question {n}", " no" if n % 25 == 0 else " yes") for n in range(1, 101)]
        report = linting(examples)
        finding = the_only(report, "label_imbalance")
        assert finding.severity is Severity.WARNING
        assert finding.numbers == {"labels": 2, "most": 96, "least": 4}
        assert report.statistics.labels is not None
        assert [(label.text, label.count) for label in report.statistics.labels] == [("yes", 96), ("no", 4)]

    def test_an_even_distribution_is_worth_knowing(self, linting: Linting) -> None:
        examples = [PromptCompletion(n, f"question {n}", f" {n % 3}") for n in range(1, 31)]
        assert the_only(linting(examples), "few_distinct_completions").severity is Severity.INFO

    def test_free_text_has_no_labels(self, linting: Linting) -> None:
        report = linting([PromptCompletion(n, f"question {n}", f" answer {n}") for n in range(1, 101)])
        assert report.statistics.labels is None
        assert codes(report).isdisjoint({"label_imbalance", "few_distinct_completions"})


class TestOrder:
    def test_the_most_severe_come_first(self, linting: Linting) -> None:
        ended = PromptCompletion(5, "Which is the longest wall?", " The Chinese one.<|endoftext|>")
        examples = [*PLAIN, PLAIN[0], ended, LineProblem(6, "no")]
        report = linting(examples, validation=[LineProblem(1, "no")])
        order = [(finding.severity, finding.file) for finding in report.findings]
        assert order == [
            (Severity.ERROR, "training_file"),
            (Severity.ERROR, "validation_file"),
            (Severity.WARNING, "training_file"),
            (Severity.INFO, "training_file"),
        ]


class TestStreaming:
    def test_no_example_is_kept(self, byte_tokenizer: TextTokenizer) -> None:
        class Watched(str):
            """A text that can be watched, which a plain one cannot."""

        alive: weakref.WeakSet[Watched] = weakref.WeakSet()
        most = 0

        def examples() -> Iterator[Example]:
            nonlocal most
            for number in range(1, 3001):
                text = Watched(f"prompt {number} with words of its own {number * 7}")
                alive.add(text)
                yield PromptCompletion(number, text, f" completion {number}")
                gc.collect(0)
                most = max(most, len(alive))

        report = lint(examples(), Renderer(byte_tokenizer))
        assert report.statistics.examples == 3000
        assert most <= 2 * file_lints.BATCH_EXAMPLES  # the batch at work, and the one that is gathered


class TestAnyText:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(examples=st.lists(PAIRS | CHATS | COLUMNS, max_size=8), max_length=st.integers(1, 60))
    def test_no_example_can_break_a_lint(
        self, any_tokenizer: TextTokenizer, examples: list[Example], max_length: int
    ) -> None:
        renderer = Renderer(any_tokenizer, RenderSettings(max_length=max_length, over_length="truncate_prompt"))
        report = lint(examples, renderer, validation=examples)
        left_out = sum(
            finding.count
            for finding in report.findings
            if finding.file == "training_file"
            and finding.code in {"mixed_formats", "cannot_render", "over_length_dropped", "no_trained_tokens"}
        )
        assert report.statistics.trained.examples + left_out == len(examples)
