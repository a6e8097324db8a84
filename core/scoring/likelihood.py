"""Metrics of what the model said of the reference itself, without writing an answer. Nats are natural logarithms."""

import math
from statistics import fmean

from core.scoring.sample import Sample


def nats_per_token(sample: Sample) -> float | None:
    """Give the mean negative log-likelihood of the reference's tokens, the closing one included.

    None where there is no token, and where the model held one to be impossible: infinity is no number to average.
    """
    assert sample.logprobs is not None
    mean = -fmean(sample.logprobs) if sample.logprobs else None
    return mean if mean is not None and math.isfinite(mean) else None


def token_accuracy(sample: Sample) -> float | None:
    """Give the share of the reference's tokens that the model held the most likely ones; None where there is none."""
    assert sample.most_likely is not None
    return fmean(sample.most_likely) if sample.most_likely else None


def reference_probability(sample: Sample) -> float | None:
    """Give the probability of writing the whole reference, and then closing it; None where there is no token."""
    assert sample.logprobs is not None
    return math.exp(math.fsum(sample.logprobs)) if sample.logprobs else None
