"""What holds for any text: inference feeds a strict prefix of what was trained, and tokens know their characters."""

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from core.text.files.examples import Chat, Columns, Message, PromptCompletion
from core.text.mustache import PromptTemplates
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Reason, RenderedExample, Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.golden_files import IGNORE_INDEX, labels_of

same_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
WEIGHTS = st.floats(0, 1)
# All characters that SmolLM2's vocabulary can give back: it lacks some bytes of control characters and empty planes.
CHARACTERS = st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF, exclude_characters="\4\6\x13\x14\x16\x1d")


def rendered(tokenizer: TextTokenizer, prompt: str, completion: str, weight: float = 0.0) -> RenderedExample:
    settings = RenderSettings(prompt_loss_weight=weight)
    return Renderer(tokenizer, settings).example(PromptCompletion(1, prompt, completion))


def assert_spans(example: RenderedExample) -> None:
    """Each token's span lies behind the one before, and a segment's spans cover just its text."""
    end = 0
    for segment in example.segments:
        assert len(segment.spans) == len(segment.ids)
        assert segment.text == example.text[segment.spans[0][0] : segment.spans[-1][1]]
        for begin, stop in segment.spans:
            assert end - 1 <= begin < stop  # two tokens may share a character
            end = stop
    assert end == len(example.text)


class TestProperties:
    @same_tokenizer
    @given(prompt=st.text(), completion=st.text(min_size=1), weight=WEIGHTS)
    def test_inference_feeds_a_strict_prefix_of_what_was_trained(
        self, any_tokenizer: TextTokenizer, prompt: str, completion: str, weight: float
    ) -> None:
        example = rendered(any_tokenizer, prompt, completion, weight)
        fed = Renderer(any_tokenizer).prompt(prompt).ids
        assert fed == example.prompt_ids == example.input_ids[: len(fed)]
        assert 0 < len(fed) < len(example.input_ids)
        assert example.prompt_tokens + example.completion_tokens == len(example.input_ids) == len(example.weights)

    @same_tokenizer
    @given(prompt=st.text(CHARACTERS), completion=st.text(CHARACTERS, min_size=1))
    def test_the_trained_ids_decode_to_the_completion(
        self, any_tokenizer: TextTokenizer, prompt: str, completion: str
    ) -> None:
        trained = [label for label in labels_of(rendered(any_tokenizer, prompt, completion)) if label != IGNORE_INDEX]
        assert trained[-1] == any_tokenizer.eos_id
        assert any_tokenizer.decode(trained[:-1], skip_special=False) == completion

    @same_tokenizer
    @given(prompt=st.text(), completion=st.text(min_size=1))
    def test_weight_zero_and_one_are_the_two_classic_labelings(
        self, any_tokenizer: TextTokenizer, prompt: str, completion: str
    ) -> None:
        completion_only = rendered(any_tokenizer, prompt, completion, 0.0)
        full_sequence = rendered(any_tokenizer, prompt, completion, 1.0)
        ids = list(full_sequence.input_ids)
        masked = len(full_sequence.prompt_ids)
        assert labels_of(full_sequence) == [IGNORE_INDEX, *ids[1:]]  # nothing predicts the first token
        assert labels_of(completion_only) == [IGNORE_INDEX] * masked + ids[masked:]
        assert set(full_sequence.weights[1:]) == {1.0}

    @same_tokenizer
    @given(
        contents=st.lists(st.text().filter(lambda text: text.strip() and "<|" not in text), min_size=2, max_size=6),
        weight=WEIGHTS,
    )
    def test_every_turn_of_a_conversation_is_fed_as_trained(
        self, chat_tokenizer: TextTokenizer, contents: list[str], weight: float
    ) -> None:
        roles = ("user", "assistant")
        messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(contents[: len(contents) // 2 * 2]))
        renderer = Renderer(chat_tokenizer, RenderSettings(prompt_loss_weight=weight))
        example = renderer.example(Chat(1, messages))
        ids = example.input_ids
        ends = [segment for segment in example.segments if segment.reason is Reason.END]
        assert [segment.weight for segment in ends] == [1.0] * (len(messages) // 2)
        assert set(example.weights) <= {0.0, weight, 1.0}
        for turn in range(0, len(messages), 2):
            fed = renderer.prompt(messages[: turn + 1]).ids
            assert fed == ids[: len(fed)]
            assert len(fed) < len(ids)

    @same_tokenizer
    @given(prompt=st.text(), completion=st.text(min_size=1), max_length=st.integers(1, 40))
    def test_truncation_gives_the_end_of_the_example_or_nothing(
        self, byte_tokenizer: TextTokenizer, prompt: str, completion: str, max_length: int
    ) -> None:
        example = rendered(byte_tokenizer, prompt, completion)
        settings = RenderSettings(max_length=max_length, over_length="truncate_prompt")
        cut = Renderer(byte_tokenizer, settings).fit(example)
        if cut is None:
            assert len(prompt.encode()) == 0 or example.completion_tokens >= max_length
        else:
            assert len(cut.input_ids) == min(max_length, len(example.input_ids))
            assert cut.input_ids == example.input_ids[-len(cut.input_ids) :]
            assert cut.completion_tokens == example.completion_tokens


# Where merges, special tokens and characters of several bytes meet a border.
EDGES = (" ", "  ", "\t", "\n", "\n\n", " a", "s", "!", "<|endoftext|>", "<|im_end|>", "e\u0301", "é", "🙂", "日本")
TEXTS = st.lists(st.text(CHARACTERS, max_size=8) | st.sampled_from(EDGES), max_size=4).map("".join)
LITERALS = TEXTS.map(lambda text: text.replace("{", "").replace("}", ""))


def templates(*tags: str) -> st.SearchStrategy[str]:
    """Mustache templates: text around these tags, and sections over ``refs`` and where there are none."""
    section = st.tuples(LITERALS, LITERALS).map(
        lambda around: f"{{{{#refs}}}}{around[0]}{{{{t}}}}{around[1]}{{{{/refs}}}}"
    )
    inverted = LITERALS.map(lambda text: f"{{{{^refs}}}}{text}{{{{/refs}}}}")
    return st.lists(LITERALS | st.sampled_from(tags) | section | inverted, min_size=1, max_size=6).map("".join)


@dataclass(frozen=True)
class ColumnsRow:
    """One line of a file with columns, and the job's prompt format."""

    prompt_format: PromptFormat
    values: dict[str, Any]


ROWS = st.builds(
    ColumnsRow,
    st.builds(
        PromptFormat,
        prompt=templates("{{q}}", "{{{q}}}", "{{& q}}", "{{! nothing }}").filter(bool),
        completion=templates("{{a}}", "{{{a}}}").filter(bool),
    ),
    st.fixed_dictionaries({"q": TEXTS, "a": TEXTS, "refs": st.lists(st.fixed_dictionaries({"t": TEXTS}), max_size=3)}),
)


class TestPromptFormats:
    """Random templates over random columns: the same holds for what they write."""

    @same_tokenizer
    @given(row=ROWS, weight=WEIGHTS)
    def test_a_request_is_fed_a_strict_prefix_of_what_its_row_was_trained_as(
        self, any_tokenizer: TextTokenizer, row: ColumnsRow, weight: float
    ) -> None:
        texts = PromptTemplates(row.prompt_format)
        completion = texts.completion.render(row.values)
        assume(completion.strip())
        renderer = Renderer(any_tokenizer, RenderSettings(prompt_loss_weight=weight, prompt_format=row.prompt_format))
        example = renderer.example(Columns(1, row.values))
        fed = renderer.prompt({name: row.values[name] for name in ("q", "refs")})
        assert fed.ids == example.prompt_ids == example.input_ids[: len(fed.ids)]
        assert 0 < len(fed.ids) < len(example.input_ids)
        assert fed.moved == example.moved
        written = texts.prompt.render(row.values)
        if len(fed.moved) < len(written):  # an empty prompt is the token that begins a text
            assert fed.text + fed.moved == written

    @same_tokenizer
    @given(row=ROWS, weight=WEIGHTS)
    def test_weights_spans_and_labels_follow_the_text(
        self, any_tokenizer: TextTokenizer, row: ColumnsRow, weight: float
    ) -> None:
        texts = PromptTemplates(row.prompt_format)
        prompt, completion = texts.prompt.render(row.values), texts.completion.render(row.values)
        assume(completion.strip())
        renderer = Renderer(any_tokenizer, RenderSettings(prompt_loss_weight=weight, prompt_format=row.prompt_format))
        example = renderer.example(Columns(1, row.values))
        assert_spans(example)
        end = any_tokenizer.token_text(any_tokenizer.eos_id)
        learnt = example.moved + completion.removesuffix(end)
        start = "" if prompt.rstrip(" \t") else any_tokenizer.token_text(any_tokenizer.start_ids[0])
        assert example.text == start + prompt.removesuffix(example.moved) + learnt + end
        masked = len(example.prompt_ids)
        assert set(example.weights[:masked]) <= {0.0, weight}
        assert set(example.weights[masked:]) == {1.0}
        assert any_tokenizer.decode(labels_of(example)[masked:], skip_special=False) == learnt + end


class TestSpans:
    @same_tokenizer
    @given(prompt=st.text(CHARACTERS), completion=st.text(CHARACTERS, min_size=1))
    def test_each_token_names_its_characters(self, any_tokenizer: TextTokenizer, prompt: str, completion: str) -> None:
        assert_spans(rendered(any_tokenizer, prompt, completion))
