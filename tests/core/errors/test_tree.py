"""What every error of the tree keeps to, whoever adds one."""

import ast
import inspect
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import core.errors
from core.errors import FileTooLarge, InvalidInput, InvalidParameter, ServiceError, StartRefused, TrainingError
from tests.core.errors.samples import all_errors

ROOT: Final = Path(core.errors.__file__).resolve().parents[2]
EVERY = pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)


def test_the_package_exports_the_whole_tree() -> None:
    exported = {cls for _, cls in inspect.getmembers(core.errors, inspect.isclass)}
    assert exported == {cls for cls in ServiceError.tree() if cls.__module__.startswith("core.errors.")}


def test_no_two_errors_have_one_code() -> None:
    counts = Counter(cls.code for cls in ServiceError.tree())
    assert [code for code, count in counts.items() if count > 1] == []


@EVERY
def test_every_error_that_a_request_can_meet_has_a_status_and_no_other_has(error: ServiceError) -> None:
    if type(error) is ServiceError or isinstance(error, TrainingError | StartRefused):
        assert error.status == 500
    else:
        assert 400 <= error.status < 600
        assert error.status != 500


def test_the_nearest_ancestor_decides() -> None:
    assert (FileTooLarge.status, InvalidInput.status) == (413, 400)
    assert InvalidParameter.status == 400


@EVERY
def test_every_error_prints_and_pickles(error: ServiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(error)
    assert (copy.args, str(copy), copy.param) == (error.args, str(error), error.param)


INVITATION: Final = re.compile(r"(try|send it|ask|come|start it) again|\bretry|in a (few )?seconds?\b", re.IGNORECASE)


@EVERY
def test_no_sentence_invites_to_a_retry_that_cannot_help(error: ServiceError) -> None:
    if error.retry_after_s is None:
        assert not INVITATION.search(str(error))
    else:
        assert error.retry_after_s > 0
        assert error.status in (409, 429, 503)


def test_no_reason_that_is_given_where_an_error_is_raised_does_so_either() -> None:
    final = {type(error).__name__ for error in all_errors() if error.retry_after_s is None}
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {text}"
        for folder in ("app", "core", "worker", "loramill")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in _calls_of(path, final)
        for text in _texts_of(call)
        if INVITATION.search(text)
    ]
    assert found == []


def test_the_search_finds_what_it_is_for() -> None:
    call = ast.parse('AdapterInvalid(digest, f"{name} is not there; try again")')
    assert [bool(INVITATION.search(text)) for text in _texts_of(call)] == [True]


def _calls_of(path: Path, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def _texts_of(call: ast.AST) -> list[str]:
    return [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
