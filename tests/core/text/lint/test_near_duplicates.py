"""Near-duplicates among generated texts whose similarity is known."""

import random
from collections.abc import Sequence

from core.text.lint import near_duplicates
from core.text.lint.near_duplicates import CROWD, MIN_TRIPLES, SAMPLE_EXAMPLES, SIMILARITY, NearDuplicates

Words = list[str]


def pairs_of(texts: Sequence[Words]) -> list[tuple[int, int]]:
    near = NearDuplicates()
    found = [pair for line, words in enumerate(texts, start=1) for pair in near.add(words, line, None)]
    return found + list(near.finish())


def texts_of(rng: random.Random, count: int, words: int) -> list[Words]:
    return [[f"w{rng.randrange(10_000)}" for _ in range(words)] for _ in range(count)]


def test_a_changed_word_in_eighty_is_found_and_named_with_its_earlier_line() -> None:
    texts = texts_of(random.Random(1), 50, 80)
    changed = [*texts[6]]
    changed[20] = "other"
    assert pairs_of([*texts, changed]) == [(51, 7)]


def test_texts_without_much_in_common_are_none() -> None:
    assert pairs_of(texts_of(random.Random(2), 500, 40)) == []


def test_a_long_template_that_all_share_is_not_counted() -> None:
    rng = random.Random(3)
    template = [f"t{n}" for n in range(200)]
    own = texts_of(rng, 300, 12)
    assert pairs_of([template + words for words in own]) == []
    assert pairs_of([template + words for words in [*own, own[4][:-1]]]) == [(301, 5)]


def test_a_template_found_in_the_sample_holds_for_what_comes_after_it() -> None:
    rng = random.Random(4)
    template = [f"t{n}" for n in range(100)]
    texts = [template + words for words in texts_of(rng, SAMPLE_EXAMPLES + 200, 12)]
    assert pairs_of(texts) == []


def test_what_is_known_to_be_alike_is_given_in_the_files_order() -> None:
    near = NearDuplicates()
    text = [f"w{n}" for n in range(40)]
    found = [pair for line in (1, 2) for pair in near.add(text, line, None)]
    found += near.add(["short"], 3, 1)
    assert found == []
    assert list(near.finish()) == [(2, 1), (3, 1)]


def test_too_little_text_is_not_compared() -> None:
    words = [f"w{n}" for n in range(MIN_TRIPLES + 1)]
    assert pairs_of([words, words]) == []
    assert pairs_of([[*words, "one"], [*words, "one"]]) == [(2, 1)]


def test_nearly_all_pairs_at_the_bar_are_found_and_few_below_it() -> None:
    rng = random.Random(5)
    found = {True: 0, False: 0}
    pairs = {True: 0, False: 0}
    for trial in range(400):
        text = texts_of(rng, 1, 60)[0]
        other = [word if rng.random() > (0.02, 0.06)[trial % 2] else f"x{rng.random()}" for word in text]
        a, b = (near_duplicates._triples(words) for words in (text, other))
        similarity = len(a & b) / len(a | b)
        if similarity >= SIMILARITY + 0.05 or similarity <= SIMILARITY - 0.1:
            above = similarity >= SIMILARITY
            pairs[above] += 1
            found[above] += bool(pairs_of([text, other]))
    assert pairs[True] > 50
    assert pairs[False] > 20
    assert found[True] > 0.9 * pairs[True]
    assert found[False] < 0.1 * pairs[False]


def test_a_crowd_of_texts_that_are_somewhat_alike_does_not_fill_its_bucket() -> None:
    rng = random.Random(6)
    shared = [f"s{n}" for n in range(50)]
    near = NearDuplicates()
    for line in range(1, SAMPLE_EXAMPLES + 1):  # so that what the crowd below shares is no template
        list(near.add(texts_of(rng, 1, 30)[0], line, None))
    for line in range(2000, 5000):
        list(near.add(shared + [f"w{rng.random()}" for _ in range(8)], line, None))
    crowd = sum(line >= 2000 for line in near._sketches)
    assert crowd < 10 * CROWD
