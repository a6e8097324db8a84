"""Metrics that hold an answer to be right or wrong, or right in parts: exact match, JSON fields, numbers, labels."""

import re
from decimal import Decimal
from typing import Final, Literal

from core.scoring.json_values import leaves
from core.scoring.sample import Sample
from core.scoring.words import overlap_f1

Normalization = Literal["none", "strip", "casefold", "json"]

# A number as people write it: a sign, digits with commas between groups of three or without, a fraction, an exponent.
_NUMBER: Final = re.compile(
    r"(?<![\w.])(?P<sign>[-−+]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<rest>(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?!\d))?)(?!\d)"
)


def exact_match(sample: Sample, normalization: Normalization = "strip") -> float | None:
    """Give 1 where answer and reference are equal, else 0; JSON by value, and None where the reference is none.

    SQuAD's exact match (Rajpurkar et al. 2016, 1606.05250), whose own normalisation also drops case, articles and
    punctuation. Here the run says what does not count: ``none``: every character does; ``strip``: white space at both
    ends; ``casefold``: that and case; ``json``: how the same JSON is written.
    """
    answer, reference = _both(sample)
    match normalization:
        case "none":
            return float(answer == reference)
        case "strip":
            return float(answer.strip() == reference.strip())
        case "casefold":
            return float(answer.strip().casefold() == reference.strip().casefold())
        case "json":
            wanted = leaves(reference)
            return None if wanted is None else float(leaves(answer) == wanted)


def json_field_f1(sample: Sample) -> float | None:
    """Give the F1 of the reference's JSON values, each with the path to it; 0 where the answer is no JSON.

    Micro F1 over slots, as for filled forms (Message Understanding Conference, Chinchor 1992). A value counts where it
    stands: in a list by its place. None where the reference is no JSON.
    """
    answer, reference = _both(sample)
    wanted, got = leaves(reference), leaves(answer)
    if wanted is None:
        return None
    return 0.0 if got is None else overlap_f1(wanted, got)


def numeric_match(sample: Sample) -> float | None:
    """Give 1 where the last number of the answer is the last one of the reference, by value; 0 where it has none.

    GSM8K's rule (Cobbe et al. 2021, 2110.14168) as lm-evaluation-harness' ``flexible-extract`` applies it to any
    answer. A comma is one of thousands, never of decimals. None where the reference has no number.
    """
    answer, reference = _both(sample)
    wanted = _last_number(reference)
    return None if wanted is None else float(_last_number(answer) == wanted)


def label_accuracy(sample: Sample) -> float | None:
    """Give 1 where the answer is the reference's label, white space at both ends aside; None where it is no label.

    An answer that is none of the labels is wrong, as any other label is.
    """
    answer, reference = _both(sample)
    assert sample.labels is not None
    if reference.strip() not in sample.labels:
        return None
    return float(answer.strip() == reference.strip())


def _both(sample: Sample) -> tuple[str, str]:
    assert sample.answer is not None
    assert sample.reference is not None
    return sample.answer, sample.reference


def _last_number(text: str) -> Decimal | None:
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007  # the last one is what is wanted
        pass
    if last is None:
        return None
    sign = "-" if last["sign"] in ("-", "−") else ""
    return Decimal(f"{sign}{last['whole'].replace(',', '')}{last['rest']}")
