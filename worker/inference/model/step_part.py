"""What the time of a step is told by. Knows no torch: metrics name the parts before it is imported."""

from enum import StrEnum


class StepPart(StrEnum):
    """What a step's time is told by."""

    LINEAR = "linear"  # products with the base model's weights
    ATTENTION = "attention"  # rotating, caching and attending
    LORA = "lora"  # what adapters add to the products
    SAMPLE = "sample"  # choosing tokens from the logits
