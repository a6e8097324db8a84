"""What is drafted, how many tokens of it, and that drafting pauses where it does not pay."""

import itertools

from worker.inference.scheduler.speculation import FIRST_DRAFT, FIRST_PAUSE, LONGEST_DRAFT, LONGEST_PAUSE, PromptLookup


def test_what_followed_the_last_tokens_before_is_proposed() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).propose(3) == [4, 5, 6]


def test_the_last_place_and_the_longer_match_count() -> None:
    assert PromptLookup([1, 2, 3, 7, 1, 2, 3, 8, 8, 8, 8, 1, 2, 3]).propose(1) == [8]
    assert PromptLookup([1, 2, 3, 7, 5, 2, 3, 8, 8, 8, 8, 1, 2, 3]).propose(1) == [7]
    assert PromptLookup([2, 3, 7, 8, 9, 9, 1, 2, 3]).propose(2) == [7, 8]


def test_without_a_match_nothing_is_proposed() -> None:
    assert PromptLookup([1, 2, 3, 4]).propose(5) == []
    assert PromptLookup([1]).propose(5) == []
    assert PromptLookup([]).propose(5) == []


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    assert PromptLookup([9, 1, 2, 1, 2, 1]).propose(4) == [2, 1, 2, 1]


def test_tokens_that_were_added_are_found() -> None:
    lookup = PromptLookup([1, 2, 3])
    assert lookup.propose(4) == []
    lookup.extend([4, 1, 2])
    lookup.extend([3])
    assert lookup.propose(2) == [4, 1]


def repeating() -> PromptLookup:
    return PromptLookup([1, 2, 3] * 3)


def test_accepted_drafts_grow_up_to_a_limit() -> None:
    lookup = repeating()
    lengths = []
    for _ in range(4):
        draft = lookup.propose(100)
        lengths.append(len(draft))
        lookup.learn(len(draft), len(draft))
    assert lengths == [FIRST_DRAFT, 2 * FIRST_DRAFT, LONGEST_DRAFT, LONGEST_DRAFT]


def test_a_draft_accepted_in_part_is_tried_one_longer() -> None:
    lookup = repeating()
    lookup.learn(len(lookup.propose(100)), 1)
    assert len(lookup.propose(100)) == 2


def test_rejected_drafts_shrink_and_then_pause_ever_longer() -> None:
    lookup = repeating()
    steps = []
    for _ in range(2000):
        draft = lookup.propose(100)
        steps.append(len(draft))
        lookup.learn(len(draft), 0)
    drafted = [step for step, length in enumerate(steps) if length]
    assert steps[:3] == [4, 2, 1]
    gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(drafted[2:])]
    assert gaps[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(gaps) == LONGEST_PAUSE
    assert sum(steps) < 25, "what never pays costs next to nothing"


def test_the_limit_bounds_a_draft() -> None:
    assert repeating().propose(0) == []
    assert len(repeating().propose(2)) == 2
