"""Our overlap metrics are the public reference implementations', to rounding, on a thousand pairs."""

import re
import string
from collections import Counter

import pytest

from core.scoring.registry import METRICS
from core.scoring.words import words
from tests.core.scoring.samples import of, random_pairs

PAIRS = tuple(random_pairs(1000))


def test_chrf_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacreBLEU, chrF's reference, is not installed")
    theirs = sacrebleu.CHRF()
    for answer, reference in PAIRS:
        found = METRICS["chrf"].score(of(answer, reference))
        if reference.strip():
            assert found == pytest.approx(theirs.sentence_score(answer, [reference]).score / 100, abs=1e-12)
        else:
            assert found is None


def test_rouge_l_is_googles_over_our_words() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="Google's rouge_score is not installed")

    class OurWords:
        def tokenize(self, text: str) -> list[str]:
            return words(text)

    theirs = rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurWords())
    for answer, reference in PAIRS:
        if len(answer) > 1000:
            continue  # its table is filled cell by cell
        found = METRICS["rouge_l"].score(of(answer, reference))
        expected = theirs.score(reference, answer)["rougeL"].fmeasure
        assert found == pytest.approx(expected, abs=1e-12) or (found is None and expected == 0)


def test_edit_similarity_is_rapidfuzz_indel() -> None:
    distance = pytest.importorskip("rapidfuzz.distance", reason="RapidFuzz is not installed")
    for answer, reference in PAIRS:
        found = METRICS["edit_similarity"].score(of(answer, reference))
        expected = distance.Indel.normalized_similarity(answer, reference)
        assert found == pytest.approx(expected, abs=1e-12) or (found is None and not answer + reference)


def squad_f1(prediction: str, truth: str) -> float:
    """As in SQuAD's evaluate-v2.0.py."""

    def tokens(text: str) -> list[str]:
        kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    gold, got = tokens(truth), tokens(prediction)
    same = (Counter(gold) & Counter(got)).total()
    if not gold or not got:
        return float(gold == got)
    if same == 0:
        return 0.0
    precision, recall = same / len(got), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_is_squads_where_words_are_english_ones_without_articles_and_punctuation() -> None:
    for answer, reference in random_pairs(1000, seed=1):
        plain = [re.sub(r"[^a-z ]", "", text.replace("a", "e")) for text in (answer, reference)]
        found = METRICS["token_f1"].score(of(*plain))
        assert found == pytest.approx(squad_f1(*plain), abs=1e-12) or (found is None and not "".join(plain).split())
