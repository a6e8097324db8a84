from pathlib import Path

import pytest

from core.errors import FileTypeUnclear
from core.text.files.csv import CSV
from core.text.files.examples import Columns, LineProblem, PromptCompletion
from core.text.files.read import FILE_TYPES, file_type_of, read_examples
from core.text.mustache import PromptTemplates
from core.text.render_settings import PromptFormat
from tests.harness.parquet_files import parquet_of


@pytest.mark.parametrize(
    ("filename", "head", "file_type"),
    [
        ("train.jsonl", b'{"a": 1}', "jsonl"),
        ("train.json", b"", "jsonl"),
        ("TRAIN.CSV", b"a,b\n1,2\n", "csv"),
        ("train.csv", b"", "csv"),
        ("train.parquet", b"PAR1\x15\x00\x15\x00", "parquet"),
        ("train", b"PAR1\x15\x00\x15\x00", "parquet"),
        ("train", b'{"a": 1}', "jsonl"),
        ("train.txt", b'{"a": 1}', "jsonl"),
        ("train.2026-01-01", b"PAR1\x15\x00\x15\x00", "parquet"),
    ],
)
def test_the_name_tells_the_type_and_else_the_first_bytes(filename: str, head: bytes, file_type: str) -> None:
    assert file_type_of(filename, head) is FILE_TYPES[file_type]


@pytest.mark.parametrize(
    ("filename", "head", "part"),
    [
        ("train.jsonl", b"PAR1\x15\x00\x15\x00", "a name that ends in .parquet"),
        ("train.csv", b"PAR1\x15\x00\x15\x00", "a name that ends in .parquet"),
        ("train.parquet", b'{"a": 1}', "does not begin as Parquet does"),
        ("train.parquet", b"", "does not begin as Parquet does"),
        ("train.csv", b'\xef\xbb\xbf{"a":', "a name that ends in .jsonl"),
        ("train.csv", b"PK\x03\x04\x14\x00\x06\x00", "a zip archive"),
        ("train.jsonl", b"\x1f\x8b\x08\x00", "compressed with gzip"),
        ("train", b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    ],
)
def test_a_contradiction_is_named_with_its_remedy(filename: str, head: bytes, part: str) -> None:
    with pytest.raises(FileTypeUnclear) as caught:
        file_type_of(filename, head)
    assert str(caught.value).startswith(f"{filename}: ")
    assert part in str(caught.value)
    assert caught.value.param == "file"


def test_one_table_is_the_same_examples_in_every_type(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {
        "jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "c, d"}\n',
        "csv": b'prompt,completion\na,b\n,"c, d"\n',
        "parquet": parquet_of({"prompt": ["a", ""], "completion": ["b", "c, d"]}),
    }
    for file_type, content in contents.items():
        path = tmp_path / "training_file"
        path.write_bytes(content)
        first = 2 if file_type == "csv" else 1  # behind the header
        assert list(read_examples(path, FILE_TYPES[file_type])) == [
            PromptCompletion(first, "a", "b"),
            PromptCompletion(first + 1, "", "c, d"),
        ]


def test_reading_a_file_that_was_not_checked_raises_the_first_problem(tmp_path: Path) -> None:
    path = tmp_path / "training_file"
    path.write_bytes(b"a,b\n1,2\n3\n")
    with pytest.raises(LineProblem, match="line 3: the record has 1 fields"):
        list(read_examples(path, CSV))


QUESTION_ANSWER = PromptFormat(
    prompt="Question: {{question}}\nReferences:\n{{#references}}- {{title}}: {{text}}\n{{/references}}Answer:",
    completion=" {{answer}}",
)
EXPECTED = ("Question: Who?\nReferences:\n- T1: one\n- T2: two\nAnswer:", " Nobody")


def test_question_references_answer_renders_alike_from_jsonl_and_parquet(tmp_path: Path) -> None:
    references = [{"title": "T1", "text": "one"}, {"title": "T2", "text": "two"}]
    contents: dict[str, bytes] = {
        "jsonl": b'{"question": "Who?", "references": [{"title": "T1", "text": "one"}, {"text": "two", "title": "T2"}],'
        b' "answer": "Nobody"}',
        "parquet": parquet_of({"question": ["Who?"], "references": [references], "answer": ["Nobody"]}),
    }
    templates = PromptTemplates(QUESTION_ANSWER)
    for file_type, content in contents.items():
        path = tmp_path / "training_file"
        path.write_bytes(content)
        (example,) = read_examples(path, FILE_TYPES[file_type])
        assert isinstance(example, Columns)
        assert (templates.prompt.render(example.values), templates.completion.render(example.values)) == EXPECTED


def test_question_and_answer_render_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "training_file"
    path.write_bytes(b'question,answer\n"Who, then?",Nobody\n')
    templates = PromptTemplates(PromptFormat(prompt="Question: {{question}}\nAnswer:", completion=" {{answer}}"))
    (example,) = read_examples(path, CSV)
    assert isinstance(example, Columns)
    assert templates.prompt.render(example.values) == "Question: Who, then?\nAnswer:"
    assert templates.completion.render(example.values) == " Nobody"
