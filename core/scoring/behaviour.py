"""Metrics of how a model answers, whatever it says: whether it ends, how long it is, whether it repeats itself."""

from typing import Final

from core.scoring.sample import Sample
from core.scoring.words import words

REPEATED_WORDS: Final = 4  # in a row


def stop_rate(sample: Sample) -> float | None:
    """Give 1 where the model closed its answer itself, 0 where the limit of new tokens did."""
    return None if sample.stopped is None else float(sample.stopped)


def length_ratio(sample: Sample) -> float | None:
    """Give the answer's characters over the reference's, so that tokenizers compare; None where that is empty."""
    assert sample.answer is not None
    assert sample.reference is not None
    return len(sample.answer) / len(sample.reference) if sample.reference else None


def repetition(sample: Sample) -> float | None:
    """Give the share of the answer's runs of four words that stood in it before; None with fewer words.

    seq-rep-4 of Welleck et al. 2019 (1908.04319), by words in place of tokens, so that tokenizers compare.
    """
    assert sample.answer is not None
    found = words(sample.answer)
    runs = [tuple(found[begin : begin + REPEATED_WORDS]) for begin in range(len(found) - REPEATED_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else None
