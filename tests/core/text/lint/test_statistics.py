import pytest

from core.text.files.examples import Chat, Message, PromptCompletion
from core.text.lint.statistics import Totals
from core.text.render_settings import RenderSettings, TrainOn
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.core.text.lint.conftest import Linting

# tokens of prompt and completion, the closing one included: 4 + 2, 10 + 5, 2 + 8
EXAMPLES = [
    PromptCompletion(1, "aaaa", "b"),
    PromptCompletion(2, "c" * 10, "dddd"),
    PromptCompletion(3, "ee", "f" * 7),
]


def test_percentiles_and_the_median_ratio_are_those_of_all_examples(linting: Linting) -> None:
    statistics = linting(EXAMPLES, max_length=10).statistics
    assert statistics.examples == 3
    assert statistics.tokens is not None
    assert statistics.prompt_tokens is not None
    assert statistics.completion_tokens is not None
    assert (statistics.tokens.p50, statistics.prompt_tokens.p50, statistics.completion_tokens.p50) == (10, 4, 5)
    assert statistics.tokens.max == 15
    assert statistics.completion_prompt_ratio == 0.5


def test_totals_are_those_of_what_is_trained_on(linting: Linting) -> None:
    assert linting(EXAMPLES, max_length=10).statistics.trained == Totals(
        examples=2,
        prompt_tokens=6,
        completion_tokens=10,
        trained_tokens=10,
        completion_prompt_ratio=10 / 6,
        padding_tokens=4,
    )


def test_truncated_prompts_count_as_they_are_kept(linting: Linting) -> None:
    trained = linting(EXAMPLES, max_length=10, over_length="truncate_prompt").statistics.trained
    assert (trained.examples, trained.prompt_tokens, trained.completion_tokens) == (3, 11, 15)


def test_a_prompt_loss_weight_trains_all_but_the_first_tokens(linting: Linting) -> None:
    assert linting(EXAMPLES, prompt_loss_weight=0.1).statistics.trained.trained_tokens == 6 + 15 + 10 - 3


@pytest.mark.parametrize("train_on", ["all_assistant", "last_assistant"])
def test_totals_equal_the_renderers_own(linting: Linting, byte_tokenizer: TextTokenizer, train_on: TrainOn) -> None:
    turns = (Message("user", "a"), Message("assistant", "bb", 0.5), Message("user", "c"), Message("assistant", "d"))
    rendered = Renderer(byte_tokenizer, RenderSettings(train_on=train_on)).example(Chat(1, turns))
    trained = linting([Chat(1, turns)], train_on=train_on).statistics.trained
    assert (trained.prompt_tokens, trained.completion_tokens, trained.trained_tokens) == (
        rendered.prompt_tokens,
        rendered.completion_tokens,
        rendered.trained_tokens,
    )
