"""Who is answered by which of an alias' two models."""

import pytest

from app.models.split import model_for
from core.store.aliases.records import Alias, AliasState

CALLERS = [f"anonymous/user-{number}" for number in range(4000)]


def split(percent: int, name: str = "bot@prod") -> Alias:
    return Alias(name, AliasState(model="old", canary="new", percent=percent), 1, 0, 0, "key")


def of_the_canary(alias: Alias) -> set[str]:
    return {caller for caller in CALLERS if model_for(alias, caller) == "new"}


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_the_canary_answers_its_share_of_the_callers(percent: int) -> None:
    share = len(of_the_canary(split(percent))) / len(CALLERS)
    assert abs(share - percent / 100) < 0.03  # over three standard deviations, of a hash that is always the same


def test_a_caller_stays_with_the_canary_as_its_share_grows() -> None:
    few, more = of_the_canary(split(10)), of_the_canary(split(30))
    assert few < more


def test_two_aliases_do_not_try_on_the_same_callers() -> None:
    assert of_the_canary(split(50)) != of_the_canary(split(50, "other@prod"))


def test_the_same_callers_are_chosen_by_every_process_and_version() -> None:
    assert sorted(of_the_canary(split(1)))[:2] == ["anonymous/user-1116", "anonymous/user-1180"]


def test_nobody_in_particular_is_answered_by_the_model() -> None:
    assert model_for(split(99), None) == "old"


def test_without_a_canary_all_are_answered_by_the_model() -> None:
    alias = Alias("bot@prod", AliasState(model="old"), 1, 0, 0, "key")
    assert {model_for(alias, caller) for caller in CALLERS} == {"old"}
