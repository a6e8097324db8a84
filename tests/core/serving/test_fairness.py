"""Whose turn it is: tokens served decide, patience bounds, and nobody saves up turns."""

from collections import Counter

from core.serving.fairness import FairQueue, Key

A, B, C = Key("a", None), Key("b", None), Key("c", None)


def make_queue(*requests: tuple[str, Key], patience_s: float = 10.0) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(patience_s)
    for item, key in requests:
        queue.add(item, key, 0.0)
    return queue


def pop(queue: FairQueue[str], now_s: float = 0.0, *passed: Key, prompt_tokens: int = 10) -> str | None:
    ticket = queue.pop(now_s, passed)
    if ticket is None:
        return None
    queue.serve(ticket, prompt_tokens, now_s)
    return ticket.item


def test_the_line_that_was_served_least_is_next() -> None:
    queue = make_queue(("a1", A), ("a2", A), ("a3", A), ("b1", B), ("b2", B))
    assert [pop(queue) for _ in range(6)] == ["a1", "b1", "a2", "b2", "a3", None]


def test_a_generated_token_counts_twice_a_prompts() -> None:
    queue = make_queue(("a1", A), ("a2", A), ("b1", B), ("b2", B), ("b3", B))
    assert (pop(queue, prompt_tokens=1), pop(queue, prompt_tokens=19)) == ("a1", "b1")
    queue.account({A: 10}, {A, B})
    assert [pop(queue, prompt_tokens=1), pop(queue, prompt_tokens=1), pop(queue)] == ["b2", "b3", "a2"]


def test_adapters_of_one_caller_have_lines_of_their_own() -> None:
    first, second = Key("a", "x" * 64), Key("a", "y" * 64)
    queue = make_queue(("x1", first), ("x2", first), ("y1", second))
    assert [pop(queue) for _ in range(3)] == ["x1", "y1", "x2"]


def test_a_line_that_comes_anew_begins_at_the_least_served() -> None:
    queue = make_queue(*((f"a{number}", A) for number in range(9)))
    for _ in range(3):
        pop(queue, prompt_tokens=100)
    queue.account({}, {A})
    for number in range(9):
        queue.add(f"b{number}", B, 0.0)
    served = [pop(queue, prompt_tokens=100) for _ in range(6)]
    assert Counter(item[0] for item in served if item) == {"a": 3, "b": 3}


def test_leaving_and_coming_back_does_not_reset_a_line() -> None:
    queue = make_queue(("a1", A), ("b1", B), ("b2", B))
    assert (pop(queue, prompt_tokens=1000), pop(queue, prompt_tokens=10)) == ("a1", "b1")
    queue.account({}, {B})
    queue.add("a2", A, 0.0)
    queue.add("b3", B, 0.0)
    assert [pop(queue) for _ in range(3)] == ["b2", "b3", "a2"]


def test_when_nobody_is_active_a_new_reckoning_begins() -> None:
    queue = make_queue(("a1", A))
    pop(queue, prompt_tokens=10**6)
    queue.account({}, set())
    queue.add("b1", B, 0.0)
    pop(queue, prompt_tokens=10)
    queue.add("a2", A, 0.0)
    queue.add("b2", B, 0.0)
    queue.add("b3", B, 0.0)
    assert "a2" in (pop(queue), pop(queue))


def test_lines_that_are_gone_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        key = Key(str(number), None)
        queue.add("x", key, 0.0)
        pop(queue)
        queue.account({}, {key})
    assert len(queue._lines) < 20


def test_a_line_that_waits_too_long_goes_first() -> None:
    queue = make_queue(("a1", A), ("b1", B))
    pop(queue, prompt_tokens=10**6)
    queue.account({}, {A})
    queue.add("a2", A, 0.0)
    queue.add("b2", B, 8.0)
    queue.add("c1", C, 8.0)
    assert pop(queue, 9.0) == "b1"
    queue.account({B: 10**7}, {A, B})
    assert pop(queue, 11.0) == "a2", "its last turn is longest ago"
    assert pop(queue, 11.0) == "c1"


def test_a_long_backlog_is_no_reason_to_go_first() -> None:
    queue = make_queue(*((f"a{number}", A) for number in range(50)))
    for second in range(30):
        queue.add(f"b{second}", B, float(second))
        assert pop(queue, float(second), prompt_tokens=1) is not None
        assert pop(queue, float(second), prompt_tokens=1) is not None
    assert not any(item.startswith("b") for item in queue)


def test_lines_without_room_are_overtaken_until_their_patience_ends() -> None:
    queue = make_queue(("a1", A), ("b1", B), ("b2", B))
    assert pop(queue, 5.0, A) == "b1"
    assert pop(queue, 11.0, A) is None, "room is saved up for a1"
    assert pop(queue, 11.0) == "a1"
    assert pop(queue, 11.0) == "b2"


def test_what_is_put_back_keeps_its_place() -> None:
    queue = make_queue(("a1", A), ("a2", A))
    ticket = queue.pop(0.0, ())
    assert ticket is not None
    queue.put_back(ticket)
    assert [pop(queue), pop(queue)] == ["a1", "a2"]


def test_a_removed_request_is_never_next() -> None:
    queue = make_queue(("a1", A), ("a2", A))
    assert queue.remove("a1")
    assert not queue.remove("a1")
    assert (len(queue), pop(queue), pop(queue)) == (1, "a2", None)
