"""What is guessed, how many tokens of it, and that guessing pauses where it does not pay."""

import itertools

from worker.inference.scheduler.speculation import FIRST_GUESS, FIRST_PAUSE, LONGEST_GUESS, LONGEST_PAUSE, PromptLookup


def test_what_followed_the_last_tokens_before_is_guessed() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).guess(3) == [4, 5, 6]


def test_the_last_place_and_the_longer_match_count() -> None:
    assert PromptLookup([1, 2, 3, 7, 1, 2, 3, 8, 8, 8, 8, 1, 2, 3]).guess(1) == [8]
    assert PromptLookup([1, 2, 3, 7, 5, 2, 3, 8, 8, 8, 8, 1, 2, 3]).guess(1) == [7]
    assert PromptLookup([2, 3, 7, 8, 9, 9, 1, 2, 3]).guess(2) == [7, 8]


def test_without_a_match_nothing_is_guessed() -> None:
    assert PromptLookup([1, 2, 3, 4]).guess(5) == []
    assert PromptLookup([1]).guess(5) == []
    assert PromptLookup([]).guess(5) == []


def test_a_text_that_repeats_itself_goes_on_so() -> None:
    assert PromptLookup([9, 1, 2, 1, 2, 1]).guess(4) == [2, 1, 2, 1]


def test_tokens_that_were_added_are_found() -> None:
    lookup = PromptLookup([1, 2, 3])
    assert lookup.guess(4) == []
    lookup.extend([4, 1, 2])
    lookup.extend([3])
    assert lookup.guess(2) == [4, 1]


def repeating() -> PromptLookup:
    return PromptLookup([1, 2, 3] * 3)


def test_right_guesses_grow_up_to_a_limit() -> None:
    lookup = repeating()
    lengths = []
    for _ in range(4):
        guess = lookup.guess(100)
        lengths.append(len(guess))
        lookup.learn(len(guess), len(guess))
    assert lengths == [FIRST_GUESS, 2 * FIRST_GUESS, LONGEST_GUESS, LONGEST_GUESS]


def test_a_guess_in_part_right_is_tried_one_longer() -> None:
    lookup = repeating()
    lookup.learn(len(lookup.guess(100)), 1)
    assert len(lookup.guess(100)) == 2


def test_wrong_guesses_shrink_and_then_pause_ever_longer() -> None:
    lookup = repeating()
    steps = []
    for _ in range(2000):
        guess = lookup.guess(100)
        steps.append(len(guess))
        lookup.learn(len(guess), 0)
    guessed = [step for step, length in enumerate(steps) if length]
    assert steps[:3] == [4, 2, 1]
    gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(guessed[2:])]
    assert gaps[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(gaps) == LONGEST_PAUSE
    assert sum(steps) < 25, "what never pays costs next to nothing"


def test_the_limit_bounds_a_guess() -> None:
    assert repeating().guess(0) == []
    assert len(repeating().guess(2)) == 2
