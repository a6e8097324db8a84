"""Takes examples as values or as a file, and refuses what an upload would be refused for.

What an example may be is ``core.text.files.examples``; what its fields mean, ``core.text.rendering``.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from core.errors import ExampleInvalid
from core.jobs.spec import FileRef
from core.text.files.examples import Example, LineProblem
from core.text.files.file_check import check_file
from core.text.files.file_type import HEAD_BYTES, NO_LIMIT
from core.text.files.jsonl import JSONL, parse_line
from core.text.files.read import file_type_of
from core.text.format_check import check_format
from core.text.render_settings import RenderFields

Examples = str | Path | Iterable[Mapping[str, Any]]


def place_examples(examples: Examples, place: Path, asked: RenderFields, *, name: str) -> FileRef:
    """Put examples where a trainer reads them: a file by a link to it, values as JSON lines.

    Args:
        name: of the argument, for sentences.

    Raises:
        FileNotFoundError: there is no such file.
        ExampleInvalid: there are none, or one is no example or of another shape than the first; ``lines`` says which.
        InvalidParameter: the settings do not fit their shape.
        FileTypeUnclear: it is neither JSONL nor CSV nor Parquet.
        ParquetNotInstalled: the package that reads Parquet is missing.
    """
    file_type = JSONL
    if isinstance(examples, str | Path):
        file = Path(examples).resolve(strict=True)
        place.symlink_to(file)
        with file.open("rb") as content:
            file_type = file_type_of(file.name, content.read(HEAD_BYTES))
    else:
        with place.open("wb") as content:
            content.writelines(orjson.dumps(example, option=orjson.OPT_APPEND_NEWLINE) for example in examples)
    with place.open("rb") as content:
        report = check_file(content, file_type, NO_LIMIT)
    if report.problems:
        raise ExampleInvalid(str(report.problems[0]), tuple(problem.line for problem in report.problems))
    check_format(asked, report.format, report.columns or (), name=name)
    with place.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return FileRef(id=name, sha256=sha256, examples=report.examples, file_type=file_type.name)


def read_example(example: Mapping[str, Any]) -> Example:
    """Read one example as if it stood on a line of a file.

    Raises:
        ExampleInvalid: it is none.
    """
    try:
        return parse_line(orjson.dumps(example), 1)
    except LineProblem as problem:
        raise ExampleInvalid(str(problem), (problem.line,)) from problem
