"""`loramill alias` against an API on a socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.app.aliases.moving import FIRST, NAME, SECOND, publish_two
from tests.app.cli.command import Done, loramill
from tests.app.conftest import ApiHarness, serving


class ServedAliases:
    """An API with two versions of a family, as the command reaches it."""

    def __init__(self, home: Path, url: str) -> None:
        self._home = home
        self._url = url

    def run(self, *arguments: str) -> Done:
        return loramill(self._home, "alias", *arguments, "--url", self._url, columns=200)

    def told(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def deployment(harness: ApiHarness) -> Iterator[ServedAliases]:
    publish_two(harness)
    with capture_logs(), serving(harness.app()) as url:
        yield ServedAliases(harness.settings.home, url)


def test_an_alias_is_set_shown_listed_rolled_back_and_deleted(deployment: ServedAliases) -> None:
    assert "there is no alias" in deployment.told("list")
    assert deployment.told("set", NAME, FIRST, "--reason", "the first") == f"{NAME} stands for {FIRST}\n"
    split = deployment.told("set", NAME, SECOND, "--canary", FIRST, "--percent", "10")
    assert split == f"{NAME} stands for {SECOND}, 10 %: {FIRST}\n"
    assert deployment.told("list").startswith(f"{NAME}  {SECOND}, 10 %: {FIRST}  ")
    shown = deployment.told("show", NAME)
    assert f"{SECOND} (version 2)  0        0       –" in shown
    assert shown.index(f"set  {SECOND}, 10 %: {FIRST}") < shown.index(f"set  {FIRST}")
    assert "the first" in shown
    assert deployment.told("rollback", NAME) == f"{NAME} stands for {FIRST}\n"
    assert deployment.told("delete", NAME, "--reason", "gone") == ""
    refused = deployment.run("show", NAME)
    assert refused.returncode == 1
    assert "no such alias" in refused.stderr


def test_as_json_it_is_what_the_api_says(deployment: ServedAliases) -> None:
    assert json.loads(deployment.told("set", NAME, FIRST, "--json"))["model"] == FIRST
    assert [alias["id"] for alias in json.loads(deployment.told("list", "--json"))] == [NAME]
    assert json.loads(deployment.told("show", NAME, "--json"))["history"][0]["number"] == 1


def test_what_the_api_refuses_is_said_with_exit_1(deployment: ServedAliases) -> None:
    refused = deployment.run("set", NAME, "ft:none")
    assert refused.returncode == 1
    assert "no such model: ft:none" in refused.stderr
    gated = deployment.run("set", NAME, FIRST, "--evaluation", "eval-none", "--gate", "exact_match >= 0.5")
    assert gated.returncode == 1
    assert "gate.evaluation" in gated.stderr


@pytest.mark.parametrize(
    "options", [["--canary", SECOND], ["--percent", "5"], ["--gate", "exact_match >= 0.5"]], ids=lambda each: each[0]
)
def test_options_that_go_with_another_one_are_refused_alone(deployment: ServedAliases, options: list[str]) -> None:
    assert deployment.run("set", NAME, FIRST, *options).returncode == 2
