"""What an export is to make: which adapter, in which format, and the prompts by which the result is tried.

Complete, as a job's specification is: the prompts are rendered when the export is made. Knows no database, no HTTP and
no weights.
"""

from typing import Final, Literal

from core.jobs.spec import AdapterRef
from core.values import Frozen

ExportFormat = Literal["peft", "merged", "gguf", "vllm"]
MergedDtype = Literal["bf16", "fp32"]
GgufType = Literal["f16", "bf16", "q8_0", "lora"]
Rounding = Literal["none", "f16", "bf16", "q8_0"]
PromptPart = Literal["trained", "held_out", "general"]

MAX_PROMPTS: Final = 12
MAX_PROMPT_TOKENS: Final = 256  # of one prompt; of a longer one its end is fed


class TriedPrompt(Frozen):
    """A prompt that adapter and export are both fed.

    ``part``: kept from the training in the adapter's manifest, held out of it, or general text that belongs to neither.
    """

    part: PromptPart
    ids: tuple[int, ...]


class ExportSpec(Frozen):
    """Everything that decides an export.

    Attributes:
        model: the fine-tuned model's name when the export was asked for.
        dtype: of the numbers of ``merged``; None for every other format.
        type: of the file of ``gguf``; "lora" is the adapter alone. None for every other format.
    """

    model: str
    base_model: str
    base_model_fingerprint: str
    adapter: AdapterRef
    format: ExportFormat
    dtype: MergedDtype | None = None
    type: GgufType | None = None
    prompts: tuple[TriedPrompt, ...]

    @property
    def rounding(self) -> Rounding:
        """How the numbers of the result are rounded; "none": they are in float32, or as the adapter has them."""
        if self.format == "merged":
            return "bf16" if self.dtype == "bf16" else "none"
        return "none" if self.type is None or self.type == "lora" else self.type

    @property
    def described(self) -> str:
        """The format with its numbers, as in "gguf q8_0"."""
        return " ".join(filter(None, (self.format, self.dtype, self.type)))
