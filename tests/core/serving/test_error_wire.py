"""Errors between an engine's process and its client's."""

import json
from typing import Any

import pytest

from core.errors import GenerationFailed, OutOfMemory, ServiceError
from core.serving.error_wire import error_body, read_error
from tests.core.errors.samples import all_errors


def crossed(error: ServiceError) -> ServiceError:
    return read_error(json.loads(json.dumps(error_body(error))))


@pytest.mark.parametrize(
    "error", [error for error in all_errors() if error.status != 500], ids=lambda error: type(error).__name__
)
def test_every_error_that_a_request_can_meet_survives(error: ServiceError) -> None:
    copy = crossed(error)
    assert type(copy) is type(error)
    assert (copy.args, str(copy)) == (error.args, str(error))


def test_what_no_request_may_meet_is_a_failure_of_the_engine() -> None:
    copy = crossed(OutOfMemory("17 GB are missing"))
    assert type(copy) is GenerationFailed
    assert copy.args == ("17 GB are missing",)


def test_a_code_of_another_version_is_a_failure_with_its_sentence() -> None:
    copy = read_error({"code": "from_the_future", "message": "it is late", "args": [1, 2]})
    assert type(copy) is GenerationFailed
    assert copy.args == ("it is late",)


@pytest.mark.parametrize("body", [None, [], {}, {"code": "engine_busy", "message": "full"}, {"args": []}])
def test_what_is_no_error_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="not an error"):
        read_error(body)
