"""The file of scores is read back as it was meant, whatever models, prompts and references are made of."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.store import files
from tests.worker.evaluating.deployment import EvaluationHome

TEXTS = ("a\rb", "a\r\nb\n", '"quoted", and a comma', "1,5", "\x1a", "'", "a\u2028b", "\ufeffa")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EvaluationHome]:
    home = EvaluationHome.make(tmp_path / "home")
    yield home
    home.database.dispose()


def test_each_line_holds_the_text_as_it_is(home: EvaluationHome) -> None:
    job_id = home.queue_answers(TEXTS, metrics=("exact_match", "length_ratio", "numeric_match"))
    with home.serving_engine() as url:
        home.run(url)
    result = home.job(job_id).result
    assert result is not None
    [file_id] = result["result_files"]
    with home.database.read() as session:
        file = files.get(session, file_id)
    with home.blobs.open(file.sha256) as content:
        lines = list(csv.DictReader(io.StringIO(content.read().decode(), newline=""), strict=True))
    assert [line["reference"] for line in lines] == list(TEXTS)
    assert [line["prompt"] for line in lines] == [f"p{n + 1}" for n in range(len(TEXTS))]
    assert {(line["answer"], line["stopped"], line["exact_match"]) for line in lines} == {
        (" one two three", "True", "0.0")
    }
    assert [line["numeric_match"] for line in lines] == ["", "", "", "0.0", "", "", "", ""]  # no number: not defined
