"""Reads examples from Parquet, whose rows count as lines from 1.

A few kilobytes of Parquet can say that they are terabytes of text. So what a file claims is held
against limits before it is read, and what comes out is counted while it is read. Files nobody has
checked belong into a process with bounded memory all the same, as Arrow allocates what pages claim.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from core.errors import ParquetNotInstalled
from core.text.files.examples import MAX_COLUMNS, MAX_DEPTH, Example, LineProblem, example_of, refuse_nul, shown
from core.text.files.file_type import FileType, Signature

_MAGIC: Final = b"PAR1"
MAX_VALUES: Final = 2**23  # cells, each item of a list counting as one
MAX_TEXT_BYTES: Final = 2**31  # of all rows together, unpacked
_MAX_CHUNKS: Final = 2**18  # row groups × columns
_BATCH_ROWS: Final = 64
_POINTER_BYTES: Final = 8
_BUFFER_BYTES: Final = 2**16  # read at once of a column, rather than all of its row group

_REMEDIES: Final = {
    "binary": "write it as a string",
    "date": "write it as a string",
    "time": "write it as a string",
    "decimal": "write it as a string or a double",
    "map": "write it as a struct, or as a list of structs",
    "dictionary": "write it as a plain list of strings",
}


def require_pyarrow() -> Any:
    """Give the packages that read Parquet, pyarrow and its ``parquet``.

    Raises:
        ParquetNotInstalled: they are missing.
    """
    try:
        # here because it is an optional package, and 75 MB of memory that only readers of Parquet need
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ParquetNotInstalled from error
    return pyarrow


def read_parquet(content: BinaryIO, max_row_bytes: int) -> Iterator[Example | LineProblem]:
    """Read examples with their row numbers; a row that is none comes as its problem, and reading goes on.

    Raises:
        ParquetNotInstalled: pyarrow is missing.
    """
    pyarrow = require_pyarrow()
    line = 1
    try:
        # without the buffer, a whole row group would be read into memory at once
        file = pyarrow.parquet.ParquetFile(
            content, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
        problem = _size_problem(file.metadata) or _schema_problem(pyarrow, file.schema_arrow)
        if problem is not None:
            yield problem
            return
        left_bytes = MAX_TEXT_BYTES
        for packed in file.iter_batches(_BATCH_ROWS, use_threads=False):
            batch = _plain(pyarrow, packed)
            left_bytes -= batch.nbytes
            if left_bytes < 0:
                yield _too_large(line, f"more than {MAX_TEXT_BYTES:,} bytes")
                return
            for row in _rows(pyarrow.types, batch, line, max_row_bytes):
                yield row if isinstance(row, LineProblem) else _example(row, line)
                line += 1
    except MemoryError:
        yield _too_large(line, "more than the memory here")
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        yield LineProblem(line, f"the file is damaged, or not Parquet as it is supported: {words}", "malformed_parquet")


def _too_large(line: int, size: str) -> LineProblem:
    reason = f"the file's rows unpack to {size}; split the file, or upload it as JSONL"
    return LineProblem(line, reason, "file_too_large")


def _size_problem(metadata: Any) -> LineProblem | None:
    """Hold a file's own account of its size against the limits, before anything of that size is read."""
    if metadata.num_columns > MAX_COLUMNS:
        reason = f"there are {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,} are supported"
        return LineProblem(1, reason, "header")
    values = metadata.num_rows * max(1, metadata.num_columns)
    if metadata.num_row_groups * max(1, metadata.num_columns) <= _MAX_CHUNKS:
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        cells = sum(group.column(index).num_values for group in groups for index in range(group.num_columns))
        if max(values, cells) > MAX_VALUES:
            return _too_large(1, f"{max(values, cells):,} values, of which at most {MAX_VALUES:,} are supported")
        unpacked_bytes = sum(group.total_byte_size for group in groups)
        return _too_large(1, f"{unpacked_bytes:,} bytes") if unpacked_bytes > MAX_TEXT_BYTES else None
    return LineProblem(1, f"the file has {metadata.num_row_groups:,} row groups; write it with fewer", "file_too_large")


def _schema_problem(pyarrow: Any, schema: Any) -> LineProblem | None:
    names = list(schema.names)
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        return LineProblem(1, f"the column name {shown(twice)} stands twice", "header")
    for field in schema:
        odd = _odd_type(pyarrow.types, field.type)
        if odd is not None:
            remedy = next((words for kind, words in _REMEDIES.items() if kind in str(odd)), "write it as a string")
            reason = f"the column {shown(field.name)} has the type {str(odd)[:60]}, which is not supported; {remedy}"
            return LineProblem(1, reason, "column_type")
    return None


def _odd_type(types: Any, given: Any, depth: int = 0) -> Any | None:
    """Find the part of a type that is neither text, a number, a truth value, nor lists and structs of them."""
    if depth > MAX_DEPTH:
        return given
    if types.is_list(given) or types.is_large_list(given) or types.is_fixed_size_list(given):
        return _odd_type(types, given.value_type, depth + 1)
    if types.is_struct(given):
        names = [field.name for field in given]
        if len(set(names)) < len(names):
            return given
        return next((odd for field in given if (odd := _odd_type(types, field.type, depth + 1)) is not None), None)
    if depth == 0 and types.is_dictionary(given):  # a categorical column, which is decoded
        return _odd_type(types, given.value_type, depth + 1)
    plain = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return None if types.is_null(given) or any(is_it(given) for is_it in plain) else given


def _rows(types: Any, batch: Any, line: int, max_row_bytes: int) -> Iterator[dict[str, Any] | LineProblem]:
    """Give a batch's rows as values; its own size is looked at first, as Python's objects take many times that."""
    if _size_bytes(types, batch) <= max_row_bytes:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:  # nothing was given yet; row by row tells which one it is in
            pass
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if _size_bytes(types, row) > max_row_bytes:
            reason = f"the row is larger than {max_row_bytes:,} bytes"
            yield LineProblem(line + index, reason, "line_too_long")
            continue
        try:
            (values,) = row.to_pylist()
        except UnicodeDecodeError:
            yield LineProblem(line + index, "a text is not UTF-8", "not_utf8")
        else:
            yield values


def _size_bytes(types: Any, rows: Any) -> int:
    """Give what rows take, with a pointer for each item of a list: Arrow needs a bit for true, and none for null."""
    return int(rows.nbytes) + _POINTER_BYTES * sum(_list_items(types, column) for column in rows.columns)


def _list_items(types: Any, values: Any) -> int:
    if types.is_struct(values.type):
        return sum(_list_items(types, field) for field in values.flatten())
    if types.is_nested(values.type):
        items = values.flatten()
        return len(items) + _list_items(types, items)
    return 0


def _plain(pyarrow: Any, batch: Any) -> Any:
    """Decode categorical columns, and give numbers of 32 bits the digits that they were written with."""
    columns = []
    for column in batch.columns:
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pyarrow.types.is_float32(column.type) or pyarrow.types.is_float16(column.type):
            column = column.cast(pyarrow.string()).cast(pyarrow.float64())
        columns.append(column)
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _example(values: dict[str, Any], line: int) -> Example | LineProblem:
    try:
        refuse_nul(values, line)
        _refuse_not_finite(values, line)
        turns = values.get("messages")
        if isinstance(turns, list):
            values = {**values, "messages": [_without_nulls(turn) for turn in turns]}
        return example_of(values, line)
    except LineProblem as problem:
        return problem


def _without_nulls(turn: Any) -> Any:
    """Leave out what is null: a struct has all of its fields in every row, those too that do not apply."""
    return {name: value for name, value in turn.items() if value is not None} if isinstance(turn, dict) else turn


def _refuse_not_finite(values: dict[str, Any], line: int) -> None:
    """Refuse NaN and infinite numbers, which JSON has no words for either."""
    pending: list[tuple[str, Any]] = list(values.items())
    while pending:
        column, value = pending.pop()
        match value:
            case float() if not math.isfinite(value):
                reason = f"the column {shown(column)} holds {value}; write null, or leave the row out"
                raise LineProblem(line, reason, "not_a_number")
            case list():
                pending += [(column, item) for item in value]
            case dict():
                pending += [(column, item) for item in value.values()]


PARQUET: Final = FileType(
    name="parquet",
    title="Parquet",
    extensions=(".parquet",),
    reader=read_parquet,
    signature=Signature(lambda head: head.startswith(_MAGIC), "as Parquet does (PAR1)", is_required=True),
    require=require_pyarrow,
    needs_own_process=True,  # Arrow is native code, and allocates what a file claims
)
