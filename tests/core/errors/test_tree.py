"""What every error of the tree keeps to, whoever adds one."""

import inspect
import pickle
from collections import Counter

import pytest

import core.errors
from core.errors import FileTooLarge, InvalidInput, InvalidParameter, ServiceError, StartRefused, TrainingError
from tests.core.errors.samples import all_errors

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
