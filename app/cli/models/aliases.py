"""`loramill alias`: sets, moves, rolls back, lists and shows the names that stand for models."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from app.cli.client import Client
from app.cli.columns import align


def body_of(
    model: str,
    *,
    canary: str | None,
    percent: int | None,
    evaluation: str | None,
    gates: Sequence[str],
    reason: str | None,
) -> dict[str, Any]:
    """Give the request's fields: those that were asked for."""
    given = {
        "canary": None if canary is None else {"model": canary, "percent": percent},
        "gate": None if evaluation is None else {"evaluation": evaluation, "thresholds": list(gates)},
        "reason": reason,
    }
    return {"model": model} | {name: value for name, value in given.items() if value is not None}


def show_moved(alias: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what an alias stands for now."""
    print(_json_of(alias) if as_json else f"{alias['id']} stands for {_state(alias)}")


def list_aliases(client: Client, *, as_json: bool) -> None:
    """Print all aliases, one a line.

    Raises:
        StartRefused: the API refuses it, or does not answer.
    """
    aliases = client.aliases()
    if as_json:
        print(_json_of(aliases))
    elif not aliases:
        print("there is no alias; loramill alias set NAME MODEL makes one")
    else:
        print(align([(alias["id"], _state(alias), _time(alias["moved_at"])) for alias in aliases]))


def show_alias(client: Client, name: str, *, as_json: bool) -> None:
    """Print what an alias stands for, what its models answered, and its newest moves.

    Raises:
        StartRefused: the API refuses it, or does not answer.
    """
    alias = client.alias(name)
    if as_json:
        print(_json_of(alias))
        return
    parts = [f"{name} stands for {_state(alias)}", align([_ANSWERS, *map(_answers, alias["answers"])])]
    parts.append(align([_move(move) for move in alias["history"]]))
    print("\n\n".join(parts))


_ANSWERS = ("", "answers", "failed", "stopped", "tokens", "seconds", "rated up", "rated down")


def _answers(side: Mapping[str, Any]) -> tuple[str, ...]:
    version = "" if side["version"] is None else f" (version {side['version']})"
    means = [_figure(side[name]) for name in ("stop_rate", "mean_tokens", "mean_seconds")]
    ratings = (f"{side['rated_up']:,}", f"{side['rated_down']:,}")
    return (f"{side['model']}{version}", f"{side['answers']:,}", f"{side['failed']:,}", *means, *ratings)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _move(move: Mapping[str, Any]) -> tuple[str, ...]:
    to = "nothing" if move["after"] is None else _state(move["after"])
    why = move["reason"] or ""
    if move["gate"] is not None:
        why = f"{why} (passed {move['gate']['evaluation']})".strip()
    return (str(move["number"]), _time(move["at"]), move["by"], move["action"], to, why)


def _state(state: Mapping[str, Any]) -> str:
    canary = state["canary"]
    return str(state["model"]) if canary is None else f"{state['model']}, {canary['percent']} %: {canary['model']}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _json_of(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
