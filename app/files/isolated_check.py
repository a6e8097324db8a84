"""Checks an uploaded file in a process of its own, which a hostile file can only bring down alone.

For types that native code reads. This module is also the child's program: it reads the file from its standard input
and writes its report to its standard output.
"""

import os
import resource
import signal
import subprocess
import sys
from threading import BoundedSemaphore
from typing import BinaryIO, Final

import orjson
import structlog

from core.process.bound import bound
from core.text.files.examples import LineProblem
from core.text.files.file_check import FileReport, check_file
from core.text.files.file_type import FileType
from core.text.files.read import FILE_TYPES

MEMORY_BYTES: Final = 3 * 2**29  # of address space, libraries included
CPU_S: Final = 300
_WAIT_S: Final = 2 * CPU_S
_AT_ONCE: Final = BoundedSemaphore(2)  # so that uploads together take no more than twice the memory

_log = structlog.stdlib.get_logger(__name__)


def check_isolated(content: BinaryIO, file_type: FileType, max_line_bytes: int) -> FileReport:
    """Check a stored file.

    Args:
        content: a real file at its beginning, because a process inherits it.
    """
    command = bound([sys.executable, "-m", "app.files.isolated_check", file_type.name, str(max_line_bytes)])
    # Arrow's own pools reserve address space in gigabytes, which the limit would count
    environ = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    with _AT_ONCE:
        try:
            child = subprocess.run(command, stdin=content, capture_output=True, timeout=_WAIT_S, env=environ)
        except subprocess.TimeoutExpired:
            return _unreadable(file_type, "took too long to read")
    if child.returncode == 0:
        return _report_of(child.stdout)
    stderr = child.stderr[-2000:].decode()
    _log.warning("reading a file failed", file_type=file_type.name, status=child.returncode, stderr=stderr)
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return _unreadable(file_type, "took too long to read")
    return _unreadable(file_type, "is damaged, or needs too much memory to be read")


def main() -> None:
    """Be the child."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    report = check_file(sys.stdin.buffer, FILE_TYPES[sys.argv[1]], int(sys.argv[2]))
    fields = {name: getattr(report, name) for name in ("examples", "format", "columns", "problem_count")}
    problems = [(problem.line, problem.reason, problem.code) for problem in report.problems]
    sys.stdout.buffer.write(orjson.dumps({**fields, "problems": problems}))


def _report_of(output: bytes) -> FileReport:
    fields = orjson.loads(output)
    columns = None if fields["columns"] is None else tuple(fields["columns"])
    problems = tuple(LineProblem(*problem) for problem in fields["problems"])
    return FileReport(fields["examples"], fields["format"], columns, problems, fields["problem_count"])


def _unreadable(file_type: FileType, what: str) -> FileReport:
    reason = f"the file {what}; write it anew, or upload it as JSONL or CSV"
    problem = LineProblem(1, reason, f"malformed_{file_type.name}")
    return FileReport(0, None, None, (problem,), 1)


if __name__ == "__main__":
    main()
