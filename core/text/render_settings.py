"""What decides how an example becomes ids and weights, beside the tokenizer. Knows no jobs, files or HTTP.

Each field is declared here alone: requests, queries, commands, a job's specification and its answer all take
type, bounds, default and description from it, and `core.text.rendering.Renderer` is made of the whole value.
"""

from typing import Final, Literal

from pydantic import Field

from core.values import AutoInt, Frozen

OverLength = Literal["drop", "truncate_prompt", "error"]
TrainOn = Literal["all_assistant", "last_assistant"]

MAX_LENGTH_TOKENS: Final = 2048  # where nothing else is asked for


class PromptFormat(Frozen):
    """Two Mustache templates over a file's columns, for data that is not prompt and completion."""

    prompt: str = Field(min_length=1, max_length=20_000)
    completion: str = Field(min_length=1, max_length=20_000)


class RenderFields(Frozen):
    """Settings as they are asked for: ``max_length`` None is resolved when the base model's context is known."""

    prompt_loss_weight: float = Field(0.0, ge=0, le=1, description="Weight of a prompt's tokens.")
    train_on: TrainOn = Field("all_assistant", description="Which answers of a conversation.")
    prompt_format: PromptFormat | None = Field(None, description="What columns become, as prompt and completion.")
    max_length: AutoInt = Field(None, ge=8, lt=2**31, description="Tokens of one example, closing token included.")
    over_length: OverLength = Field("drop", description="What becomes of longer ones.")

    def with_max_length(self, max_length: int) -> "RenderSettings":
        """Give the settings in force, without whatever other fields were asked for beside them."""
        given = {name: getattr(self, name) for name in RenderSettings.model_fields}
        return RenderSettings(**given | {"max_length": max_length})


class RenderSettings(RenderFields):
    """Settings in force. The bound on a length that is asked for is no bound here: a context may be shorter."""

    max_length: int = MAX_LENGTH_TOKENS
