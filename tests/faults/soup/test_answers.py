"""What of the answers of a random run counts as wrong."""

import json

import pytest

from tests.faults.soup.answers import Answers


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"x"),
        (503, json.dumps({"ready": False, "parts": {}}).encode()),
        (404, json.dumps({"error": {"code": "model_not_found"}}).encode()),
        (429, json.dumps({"error_type": "overloaded"}).encode()),
        (None, b""),
    ],
)
def test_answers_that_a_client_may_see(status: int | None, body: bytes) -> None:
    answers = Answers()
    answers.note("ask", status, body)
    assert answers.wrong == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, json.dumps({"error": {"code": "internal_error"}}).encode()),
        (404, b"<html>"),
        (503, b"{}"),
        (503, json.dumps({"error": {"code": "x", "message": "Traceback (most recent call last)"}}).encode()),
    ],
)
def test_answers_that_no_client_may_see(status: int, body: bytes) -> None:
    answers = Answers()
    answers.note("ask", status, body)
    assert len(answers.wrong) == 1
