"""Finds examples that are nearly the same as an earlier one, in a stream and without comparing all pairs.

Two examples are compared by the sets of their word triples: nearly the same is a Jaccard similarity of 0.8,
the bar of Lee et al. 2022 (arXiv 2107.06499). MinHash (the rensa library) estimates it, and only examples that
fall into one bucket of a locality-sensitive hash are compared at all. Triples that many examples of
a sample have are the data's template and do not count.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from rensa import RMinHash, RMinHashLSH

SIMILARITY: Final = 0.8
# 12 bands of 8: a pair of similarity 0.8 meets in one with 89 %, of 0.9 with 99.9 %, of 0.5 with 5 %. The
# estimate's standard error is 0.04 at the bar. About 1.6 kB of memory for each example.
PERMUTATIONS: Final = 96
BANDS: Final = 12
SEED: Final = 1
WORDS_COMPARED: Final = 1000  # of one example, so that a sample of long ones stays small
SAMPLE_EXAMPLES: Final = 1000
TEMPLATE_SHARE: Final = 0.1
TEMPLATE_EXAMPLES: Final = 5  # that few may share a triple in any file, however small
MIN_TRIPLES: Final = 5  # that are left of an example; fewer say too little
# A bucket of families that are similar, but not enough, must not grow: its members are compared with each newcomer.
CROWD: Final = 64


class NearDuplicates:
    """Takes examples one by one. The first ones are only held, until their common triples are known."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._sketches: dict[int, RMinHash] = {}  # by line
        self._sample: list[tuple[int, set[str], int | None]] | None = []
        self._template: frozenset[str] = frozenset()

    def add(self, words: Sequence[str], line: int, like: int | None) -> Iterator[tuple[int, int]]:
        """Take an example, and give each pair (line, earlier line) of near-duplicates that became known by it.

        Args:
            like: an earlier line that is known to be one of these; None: not known.
        """
        triples = _triples(words)
        if self._sample is None:
            yield from self._compare(line, triples, like)
            return
        self._sample.append((line, triples, like))
        if len(self._sample) == SAMPLE_EXAMPLES:
            yield from self.finish()

    def finish(self) -> Iterator[tuple[int, int]]:
        """Give the pairs among the examples that are still held."""
        held, self._sample = self._sample or [], None
        frequency = Counter(triple for _, triples, _ in held for triple in triples)
        most = max(TEMPLATE_EXAMPLES, TEMPLATE_SHARE * len(held))
        self._template = self._template or frozenset(triple for triple, count in frequency.items() if count > most)
        for line, triples, like in held:
            yield from self._compare(line, triples, like)

    def _compare(self, line: int, triples: set[str], like: int | None) -> Iterator[tuple[int, int]]:
        if like is not None:
            yield line, like
            return
        own = triples - self._template
        if len(own) < MIN_TRIPLES:
            return
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update(list(own))
        met = self._index.query(sketch)
        for earlier in sorted(met):
            if sketch.jaccard(self._sketches[earlier]) >= SIMILARITY:
                yield line, earlier
                return
        if len(met) < CROWD:
            self._index.insert(line, sketch)
            self._sketches[line] = sketch


def _triples(words: Sequence[str]) -> set[str]:
    words = words[:WORDS_COMPARED]
    return {" ".join(triple) for triple in zip(words, words[1:], words[2:], strict=False)}
