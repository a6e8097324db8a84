"""Metrics that say how much of the reference an answer holds, by words and by characters, in any script and in code."""

from collections import Counter
from typing import Final

from core.scoring.sample import Sample
from core.scoring.words import MAX_PAIRS, common_subsequence, overlap_f1, words

CHRF_ORDER: Final = 6  # the longest runs of characters
CHRF_BETA: Final = 2  # recall counts so many times as much as precision


def token_f1(sample: Sample) -> float | None:
    """Give the F1 of the words of answer and reference, whatever their order.

    SQuAD's (Rajpurkar et al. 2016, 1606.05250), with the words of `core.scoring.words` in place of pieces between
    spaces: punctuation separates words where SQuAD deletes it and joins them, articles of English are words as
    others are, and scripts without spaces are compared by character. None where neither has a word.
    """
    answer, reference = _words(sample)
    return overlap_f1(Counter(reference), Counter(answer)) if answer or reference else None


def rouge_l(sample: Sample) -> float | None:
    """Give the F1 of the longest common subsequence of words: the same words in the same order, gaps allowed.

    ROUGE-L of a whole text (Lin 2004), as Google's ``rouge_score`` computes ``rougeL`` without stemming; it knows the
    letters a to z only, and `core.scoring.words` replaces that. None where neither has a word, and where the texts
    are so long that `MAX_PAIRS` is passed.
    """
    answer, reference = _words(sample)
    if (not answer and not reference) or len(answer) * len(reference) > MAX_PAIRS:
        return None
    return 2 * common_subsequence(reference, answer) / (len(reference) + len(answer))


def edit_similarity(sample: Sample) -> float | None:
    """Give 1 less the share of characters to insert and delete to make one text of the other; by code points.

    The normalised similarity of insertions and deletions, as RapidFuzz' ``Indel``: the longest common subsequence
    of characters twice over both lengths. It sees each symbol, space and letter case, so it is one for code.
    None where both are empty, and where the texts are so long that `MAX_PAIRS` is passed.
    """
    answer, reference = _texts(sample)
    if (not answer and not reference) or len(answer) * len(reference) > MAX_PAIRS:
        return None
    return 2 * common_subsequence(reference, answer) / (len(reference) + len(answer))


def chrf(sample: Sample) -> float | None:
    """Give chrF2 from 0 to 1: F-score of runs of 1 to 6 characters, white space left out, recall doubly weighted.

    Popović 2015, as sacrebleu 2 computes it for a sentence (``chrF2``, there from 0 to 100): precision and recall of
    each order averaged over the orders that both texts have. None where the reference is empty or white space.
    """
    answer, reference = ("".join(text.split()) for text in _texts(sample))
    if not reference:
        return None
    precision = recall = 0.0
    orders = 0
    for order in range(1, CHRF_ORDER + 1):
        wanted, got = _runs(reference, order), _runs(answer, order)
        if wanted and got:
            common = (wanted & got).total()
            precision += common / got.total()
            recall += common / wanted.total()
            orders += 1
    if not orders or not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    factor = CHRF_BETA**2
    return (1 + factor) * precision * recall / (factor * precision + recall)


def _runs(text: str, order: int) -> Counter[str]:
    return Counter(text[begin : begin + order] for begin in range(len(text) - order + 1))


def _texts(sample: Sample) -> tuple[str, str]:
    assert sample.answer is not None
    assert sample.reference is not None
    return sample.answer, sample.reference


def _words(sample: Sample) -> tuple[list[str], list[str]]:
    answer, reference = _texts(sample)
    return words(answer), words(reference)
