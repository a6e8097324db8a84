"""A run trains alike from whatever type of file its examples came in."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import ExampleInvalid, ParquetNotInstalled
from core.text.render_settings import PromptFormat
from tests.harness.parquet_files import parquet_of
from tests.worker.training.run_folders import file_ref, train, write_run
from worker.trainer_process.messages import Finished, StepDone
from worker.trainer_process.run_folder import ADAPTER, TRAINING_FILE, VALIDATION_FILE

QUESTIONS = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
PLAIN = PromptFormat(prompt="{{question}}", completion="{{answer}}")
WITH_REFERENCES = PromptFormat(
    prompt="Question: {{question}}\nReferences:\n{{#references}}- {{title}}: {{text}}\n{{/references}}Answer:",
    completion=" {{answer}}",
)


def csv_of(rows: list[dict[str, Any]]) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def table_of(rows: list[dict[str, Any]]) -> bytes:
    return parquet_of({name: [row[name] for row in rows] for name in rows[0]})


def adapter_bytes(folder: Path) -> bytes:
    return (folder / ADAPTER / "adapter_model.safetensors").read_bytes()


def test_csv_and_parquet_train_the_same_adapter_as_jsonl(tmp_path: Path, tiny_phi: Path) -> None:
    """The validation file's type is another one than the training file's, as an upload may be."""
    job: dict[str, Any] = {"prompt_format": PLAIN, "n_epochs": 1}
    jsonl = write_run(tmp_path / "jsonl", tiny_phi, QUESTIONS, validation=QUESTIONS[:4], **job)
    reporter = train(jsonl)
    assert reporter.of(Finished)[0].trained_tokens > 0
    tables: tuple[tuple[str, bytes, str, bytes], ...] = (
        ("csv", csv_of(QUESTIONS), "parquet", table_of(QUESTIONS[:4])),
        ("parquet", table_of(QUESTIONS), "csv", csv_of(QUESTIONS[:4])),
    )
    for file_type, content, validation_type, validation in tables:
        types: dict[str, Any] = {"training_file": file_ref(file_type), "validation_file": file_ref(validation_type)}
        folder = write_run(tmp_path / file_type, tiny_phi, [], validation=[], **job, **types)
        (folder / TRAINING_FILE).write_bytes(content)
        (folder / VALIDATION_FILE).write_bytes(validation)
        steps = train(folder).of(StepDone)
        assert [step.loss for step in steps] == [step.loss for step in reporter.of(StepDone)]
        assert adapter_bytes(folder) == adapter_bytes(jsonl)


def test_questions_with_references_train_alike_from_jsonl_and_parquet(tmp_path: Path, tiny_phi: Path) -> None:
    rows = [row | {"references": [{"title": "T", "text": "x"}] * (n % 3)} for n, row in enumerate(QUESTIONS)]
    job: dict[str, Any] = {"prompt_format": WITH_REFERENCES, "n_epochs": 1}
    jsonl = write_run(tmp_path / "jsonl", tiny_phi, rows, **job)
    parquet = write_run(tmp_path / "parquet", tiny_phi, [], training_file=file_ref("parquet"), **job)
    (parquet / TRAINING_FILE).write_bytes(table_of(rows))
    train(jsonl)
    train(parquet)
    assert adapter_bytes(parquet) == adapter_bytes(jsonl)


def test_a_row_that_is_no_example_fails_the_run_with_its_number(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, [], training_file=file_ref("parquet"))
    (folder / TRAINING_FILE).write_bytes(parquet_of({"prompt": ["a", None], "completion": ["b", "c"]}))
    with pytest.raises(ExampleInvalid, match='training_file: line 2: "prompt" must be a string') as caught:
        train(folder)
    assert caught.value.lines == (2,)


def test_a_run_without_the_package_for_parquet_fails_with_its_name(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, [], training_file=file_ref("parquet"))
    (folder / TRAINING_FILE).write_bytes(table_of(QUESTIONS))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParquetNotInstalled, match=r"loramill\[tables\]"):
        train(folder)
