"""What OpenAI's completions and chat completions tell alike: finish reasons and usage."""

from typing import Final, Literal

from app.generation.openai.shared_schemas import PromptTokensDetailsOut, UsageOut
from core.serving.generation import FinishReason, Usage

FINISH: Final[dict[FinishReason, Literal["stop", "length"]]] = {
    FinishReason.LENGTH: "length",
    FinishReason.END: "stop",
    FinishReason.STOP: "stop",
}


def usage_out(usage: Usage) -> UsageOut:
    return UsageOut(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetailsOut(cached_tokens=usage.cached_tokens),
    )
