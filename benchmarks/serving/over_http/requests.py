"""Bodies of completion requests, and what the answers to a plan come to. Pure."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.serving.over_http.client import Answered, Ask, Plan
from core.ratio import ratio

OURS_MORE = {"ignore_eos": True, "stream_options": {"include_usage": True}}  # vLLM knows both as well


def body(model: str, prompt: str | list[int], max_tokens: int, **more: Any) -> dict[str, Any]:
    """Ask for a greedy completion as a stream."""
    fields = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return fields | more


def deal(url: str, bodies: Sequence[dict[str, Any]], clients: int) -> Plan:
    """Give the bodies to clients in turn, as cards are dealt."""
    return Plan(url, [[Ask(one) for one in bodies[number::clients]] for number in range(clients)])


def summarise(answered: Sequence[Answered]) -> dict[str, Any]:
    """Give rates and waiting times of the requests that were answered, and how many were not."""
    good = [one for one in answered if one.status == 200 and one.pieces_s]
    found: dict[str, Any] = {"requests": len(answered), "failed": len(answered) - len(good)}
    if len(good) < len(answered):
        found["errors"] = sorted({f"{one.status} {one.error}"[:300] for one in answered if one not in good})[:3]
    if not good:
        return found
    seconds = max(one.ended_s for one in good) - min(one.began_s for one in good)
    tokens = sum(one.tokens for one in good)
    gaps = [later - earlier for one in good for earlier, later in zip(one.pieces_s, one.pieces_s[1:], strict=False)]
    return found | {
        "seconds": seconds,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / seconds,
        "requests_per_s": len(good) / seconds,
        **_percentiles("latency", [one.seconds for one in good]),
        **_percentiles("first_token", [one.first_s for one in good]),
        **(_percentiles("between_tokens", gaps) if gaps else {}),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give the median over rounds of each number that all of them have."""
    shared = set.intersection(*(set(one) for one in rounds)) if rounds else set()
    return (
        {
            key: statistics.median(one[key] for one in rounds)
            for key in rounds[0]
            if key in shared and isinstance(rounds[0][key], int | float)
        }
        if rounds
        else {}
    )


def jain(shares: Sequence[float]) -> float | None:
    """Give Jain's index of fairness (1984): 1 where all have the same, 1/n where one has all, None where none has."""
    return ratio(sum(shares) ** 2, len(shares) * sum(share * share for share in shares))


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p50_s": percentile(values, 0.5), f"{name}_p99_s": percentile(values, 0.99)}
