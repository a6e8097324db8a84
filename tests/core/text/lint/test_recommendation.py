import pytest

from core.text.files.examples import PromptCompletion
from core.text.lint.recommendation import CHATTERJEE, HUERTA_ENOCHIAN, SHI
from tests.core.text.lint.conftest import Linting


@pytest.mark.parametrize(
    ("examples", "prompt", "completion", "worth_trying", "sources"),
    [
        (20, 90, 9, (0.01, 0.5), (HUERTA_ENOCHIAN, CHATTERJEE)),  # short completions after longer prompts
        (20, 200, 9, (0.01, 0.5), (HUERTA_ENOCHIAN, CHATTERJEE)),
        (20, 200, 400, (0.0, 1.0), (SHI,)),  # few, with long prompts and long free text
        (1000, 200, 400, (0.0, 0.5), (HUERTA_ENOCHIAN, CHATTERJEE)),  # the same, but many
        (20, 9, 40, (0.0, 0.5), (HUERTA_ENOCHIAN, CHATTERJEE)),  # completions longer than prompts
    ],
)
def test_the_range_follows_lengths_ratio_and_number(
    linting: Linting,
    examples: int,
    prompt: int,
    completion: int,
    worth_trying: tuple[float, float] | None,
    sources: tuple[str, ...],
) -> None:
    rows = (
        PromptCompletion(n, f"{n:05}".ljust(prompt, "p"), f"{n:05}".ljust(completion, "c"))
        for n in range(1, examples + 1)
    )
    recommendation = linting(rows).recommendation
    assert recommendation.prompt_loss_weight == 0
    assert (recommendation.worth_trying, recommendation.sources) == (worth_trying, sources)


def test_the_reason_has_the_datas_numbers_and_says_that_measuring_is_better(linting: Linting) -> None:
    rows = [PromptCompletion(n, f"{n:05}".ljust(100, "p"), f"{n:05}".ljust(24, "c")) for n in range(1, 13)]
    reason = linting(rows).recommendation.reason
    for said in ("12 examples", "prompt of 100 tokens", "completion of 25", "0.25 completion tokens", "Measuring"):
        assert said in reason
