"""What decides how an example becomes ids and weights, beside the tokenizer. Knows no jobs, files or HTTP."""

from typing import Literal

from pydantic import Field

from core.values import Frozen


class PromptFormat(Frozen):
    """Two Mustache templates over a file's columns, for data that is not prompt and completion."""

    prompt: str = Field(min_length=1, max_length=20_000)
    completion: str = Field(min_length=1, max_length=20_000)


OverLength = Literal["drop", "truncate_prompt", "error"]


TrainOn = Literal["all_assistant", "last_assistant"]  # which answers of a conversation
