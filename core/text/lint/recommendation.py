"""What published measurements suggest for ``prompt_loss_weight`` on data like these, and why.

The studies name the ratio of completion to prompt and the number of examples; what is a "long" or a "short"
text is our own reading, in tokens, and so are the bars below.
"""

from dataclasses import dataclass
from typing import Final

from core.text.lint.statistics import Statistics

DEFAULT: Final = 0.0
FEW_EXAMPLES: Final = 1000
LONG_PROMPT_TOKENS: Final = 100
SHORT_COMPLETION_TOKENS: Final = 50

HUERTA_ENOCHIAN: Final = (
    "Huerta-Enochian and Ko 2024, Instruction Fine-Tuning: Does Prompt Loss Matter? EMNLP 2024, arXiv 2401.13586"
)
CHATTERJEE: Final = (
    "Chatterjee et al. 2025, On the Effect of Instruction Tuning Loss on Generalization, TACL 13, arXiv 2507.07817"
)
SHI: Final = "Shi et al. 2024, Instruction Tuning With Loss Over Instructions, NeurIPS 2024, arXiv 2405.14394"
_MEASURE: Final = (
    "Measuring is better than a rule: train with both weights, and compare them on the same held-out answers."
)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A prompt loss weight for these data.

    Attributes:
        prompt_loss_weight: what to begin with.
        worth_trying: the range of other weights that helped on data like these; None: none is known.
        reason: why, with the data's own numbers.
        sources: the studies that it follows.
    """

    prompt_loss_weight: float
    worth_trying: tuple[float, float] | None
    reason: str
    sources: tuple[str, ...]


def recommend(statistics: Statistics) -> Recommendation:
    """Choose by the median lengths, their ratio and the number of examples."""
    prompt, completion = statistics.prompt_tokens, statistics.completion_tokens
    ratio = statistics.completion_prompt_ratio
    if prompt is None or completion is None or ratio is None:
        return Recommendation(DEFAULT, None, f"There is no example to judge by. {_MEASURE}", ())
    data = (
        f"{statistics.examples:,} example{'s' * (statistics.examples != 1)}, with a median prompt of {prompt.p50:,} "
        f"tokens and a median completion of {completion.p50:,}: {ratio:g} completion tokens for a prompt token."
    )
    is_short = completion.p50 <= SHORT_COMPLETION_TOKENS
    if statistics.examples < FEW_EXAMPLES and prompt.p50 >= LONG_PROMPT_TOKENS and not is_short:
        # it compares 1 with 0; its other finding is of long prompts with brief answers, whatever their number
        why = "With few examples a weight of 1, the full sequence, lessened overfitting; nothing between was tried."
        return Recommendation(DEFAULT, (0.0, 1.0), f"{data} {why} {_MEASURE}", (SHI,))
    if ratio < 1 and is_short:
        # 0.01 to 0.5 in the published paper; an earlier version of it said 0.01 to 0.1
        why = "Where short completions follow longer prompts, a small weight on the prompt gave better short answers."
        return Recommendation(DEFAULT, (0.01, 0.5), f"{data} {why} {_MEASURE}", (HUERTA_ENOCHIAN, CHATTERJEE))
    why = (
        "For data like these one study found no effect of the prompt's weight, and another found weights up to 0.5, "
        "beside 0.5 to 1 for the completion's, best over all its data; to begin with, the loss is left to the "
        "completions."
    )
    return Recommendation(DEFAULT, (0.0, 0.5), f"{data} {why} {_MEASURE}", (HUERTA_ENOCHIAN, CHATTERJEE))
