import datetime
import decimal
import io
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ParquetNotInstalled
from core.text.files import parquet as parquet_files
from core.text.files.examples import MAX_COLUMNS, Chat, Columns, Example, LineProblem, Message, PromptCompletion
from core.text.files.parquet import MAX_VALUES, read_parquet
from tests.harness.parquet_files import parquet_of, repeated


def read(content: bytes, max_row_bytes: int = 2**20) -> list[Example | LineProblem]:
    return list(read_parquet(io.BytesIO(content), max_row_bytes))


def only_problem(content: bytes, max_row_bytes: int = 2**20) -> LineProblem:
    (problem,) = read(content, max_row_bytes)
    assert isinstance(problem, LineProblem)
    return problem


def test_rows_count_from_one_across_batches_and_row_groups() -> None:
    content = parquet_of({"prompt": [f"p{n}" for n in range(1000)], "completion": ["c"] * 1000}, row_group_size=300)
    assert read(content) == [PromptCompletion(n + 1, f"p{n}", "c") for n in range(1000)]


def test_a_list_of_structs_is_a_conversation_whose_null_fields_do_not_apply() -> None:
    turns = [
        {"role": "user", "content": "a", "weight": None, "mask_spans": None},
        {"role": "assistant", "content": "bcd", "weight": 0.5, "mask_spans": [[0, 1]]},
    ]
    assert read(parquet_of({"messages": [turns]})) == [
        Chat(1, (Message("user", "a"), Message("assistant", "bcd", 0.5, ((0, 1),))))
    ]


def test_values_come_as_json_has_them() -> None:
    values: dict[str, Any] = {
        "text": "ä",
        "whole": -3,
        "part": 0.1,
        "flag": True,
        "none": None,
        "list": ["a", None],
        "struct": {"a": [1, 2], "b": None},
        "structs": [{"a": 1.5}],
        "empty": [],
    }
    columns = {name: pa.array([value]) for name, value in values.items() if name != "empty"}
    columns["empty"] = pa.array([[]], pa.list_(pa.string()))
    assert read(parquet_of(columns)) == [Columns(1, values)]


def test_other_ways_to_write_the_same_values_are_the_same() -> None:
    columns = {
        "large": pa.array(["a", "b"], pa.large_string()),
        "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
        "category": pa.array(["x", "y"]).dictionary_encode(),
        "single": pa.array([0.1, None], pa.float32()),
        "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    assert [item.values for item in read(parquet_of(columns)) if isinstance(item, Columns)] == [
        {"large": "a", "fixed": [1, 2], "category": "x", "single": 0.1, "unsigned": 2**64 - 1},
        {"large": "b", "fixed": [3, 4], "category": "y", "single": None, "unsigned": 0},
    ]


@pytest.mark.parametrize(
    ("value", "type_name", "remedy"),
    [
        (b"x", "binary", "write it as a string"),
        (datetime.datetime(2026, 1, 1), "timestamp", "write it as a string"),
        (datetime.date(2026, 1, 1), "date32", "write it as a string"),
        (decimal.Decimal("1.5"), "decimal128", "a string or a double"),
        ([b"x"], "binary", "write it as a string"),
        ([{"a": datetime.date(2026, 1, 1)}], "date32", "write it as a string"),
    ],
)
def test_another_type_is_refused_with_its_column_and_a_remedy(value: Any, type_name: str, remedy: str) -> None:
    problem = only_problem(parquet_of({"text": ["a"], "odd": pa.array([value])}))
    assert problem.code == "column_type"
    assert f'the column "odd" has the type {type_name}' in problem.reason
    assert remedy in problem.reason


def test_a_map_is_refused_by_its_column() -> None:
    column = pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string()))
    assert '"odd" has the type map<string' in only_problem(parquet_of({"odd": column})).reason


def test_a_column_name_that_stands_twice_is_refused() -> None:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]), written)
    assert '"x" stands twice' in only_problem(written.getvalue()).reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")], {"a": float("-inf")}])
def test_a_number_that_is_none_is_a_problem_of_its_row(value: Any) -> None:
    kind = pa.array([value]).type
    first, second, third = read(parquet_of({"a": ["x"] * 3, "score": pa.array([None, value, None], kind)}))
    assert isinstance(first, Columns)
    assert isinstance(second, LineProblem)
    assert (second.line, second.code) == (2, "not_a_number")
    assert '"score"' in second.reason
    assert isinstance(third, Columns)


def test_a_row_over_the_limit_is_a_problem_and_the_others_are_read() -> None:
    found = read(parquet_of({"a": ["x", "y" * 2000, "z"]}), 1000)
    assert [(item.line, type(item)) for item in found] == [(1, Columns), (2, LineProblem), (3, Columns)]
    assert "larger than 1,000 bytes" in str(found[1])


@pytest.mark.parametrize("item", [None, True, {"a": None}, [None]])
def test_a_list_of_what_takes_no_bytes_is_limited_too(item: Any) -> None:
    items = pa.array([item]).take(pa.array([0] * 200_000))
    column = pa.ListArray.from_arrays(pa.array([0, 1, 200_000], pa.int32()), items)
    first, second = read(parquet_of({"a": column}))
    assert first == Columns(1, {"a": [item]})
    assert isinstance(second, LineProblem)
    assert second.code == "line_too_long"


def test_text_that_is_not_utf8_is_a_problem_of_its_row() -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")
    column = pa.StringArray.from_buffers(3, offsets, data)
    found = read(parquet_of({"a": column}))
    assert [(item.line, type(item)) for item in found] == [(1, Columns), (2, LineProblem), (3, Columns)]
    assert isinstance(found[1], LineProblem)
    assert found[1].code == "not_utf8"


def test_nul_is_a_problem_of_its_row() -> None:
    assert only_problem(parquet_of({"a": ["x\0"]})).code == "nul"


def test_a_cell_of_100_megabytes_is_named_without_becoming_text() -> None:
    assert "row is larger" in only_problem(parquet_of({"a": ["x" * 100_000_000]})).reason


def test_rows_that_a_file_claims_to_have_are_refused_before_they_are_read() -> None:
    problem = only_problem(parquet_of({"a": pa.nulls(MAX_VALUES + 1)}))
    assert problem.code == "file_too_large"
    assert f"{MAX_VALUES + 1:,} values" in problem.reason


def test_items_of_lists_count_as_values() -> None:
    items = pa.array([True]).take(pa.array([0] * (MAX_VALUES + 1)))
    column = pa.ListArray.from_arrays(pa.array([0, MAX_VALUES + 1], pa.int32()), items)
    assert only_problem(parquet_of({"a": column})).code == "file_too_large"


def test_text_that_a_file_holds_once_and_repeats_is_counted_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "MAX_TEXT_BYTES", 10_000_000)
    content = parquet_of({"a": repeated("x" * 100_000, 1000)})
    assert len(content) < 20_000
    *rows, last = read(content)
    assert len(rows) < 100
    assert isinstance(last, LineProblem)
    assert last.code == "file_too_large"


def test_too_many_columns_and_row_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1,025 columns" in only_problem(parquet_of({f"c{n}": ["x"] for n in range(MAX_COLUMNS + 1)})).reason
    monkeypatch.setattr(parquet_files, "_MAX_CHUNKS", 2999)  # a file of as many as are allowed takes seconds to write
    written = io.BytesIO()
    pq.write_table(pa.table({f"c{n}": ["x"] * 30 for n in range(100)}), written, row_group_size=1)
    assert "30 row groups" in only_problem(written.getvalue()).reason


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", parquet_of({"a": ["x"] * 100})[:-20]],
)
def test_a_damaged_file_is_one_problem(content: bytes) -> None:
    assert only_problem(content).code == "malformed_parquet"


def test_a_changed_byte_shows_where_the_file_has_checksums() -> None:
    how = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    content = parquet_of({"a": ["needle"]}, **how)
    assert read(content) == [Columns(1, {"a": "needle"})]
    page = content.index(b"needle")
    changed = content[:page] + b"N" + content[page + 1 :]
    assert only_problem(changed).code == "malformed_parquet"


def test_where_pyarrow_is_missing_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParquetNotInstalled, match=r"pip install 'loramill\[tables\]'"):
        read(parquet_of({"a": ["x"]}))


def test_nothing_loads_pyarrow_but_reading_a_parquet_file() -> None:
    code = (
        "import sys, app.main, worker.trainer_process.run_folder, core.text.files.read; print('pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
