"""Parquet files for tests, in memory."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_of(columns: dict[str, Any], **how: Any) -> bytes:
    """Write columns, lists or Arrow arrays of equal length, as one Parquet file."""
    written = io.BytesIO()
    pq.write_table(pa.table(columns), written, **how)
    return written.getvalue()


def repeated(text: str, rows: int) -> Any:
    """Give a column that holds one text in every row, and which a file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
