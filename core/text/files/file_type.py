"""What a type of file is to whoever takes files in, checks them, and reads examples from them.

How a type is written lies with its reader, in a module of its own; which types there are is ``read``'s.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from core.text.files.examples import Example, LineProblem

NO_LIMIT: Final = 2**62  # for files that were held against the limit when they were uploaded
HEAD_BYTES: Final = 8  # of a file's beginning, by which its type is told

Reader = Callable[[BinaryIO, int], Iterator[Example | LineProblem]]
LineReader = Callable[[bytes, int], Example | LineProblem | None]


@dataclass(frozen=True)
class Signature:
    """What files of a type begin with.

    ``matches`` takes the first `HEAD_BYTES` bytes, or all of a shorter file; ``words`` complete "the file begins";
    without ``is_required`` there are files of the type that begin otherwise.
    """

    matches: Callable[[bytes], bool]
    words: str
    is_required: bool


@dataclass(frozen=True)
class FileType:
    """One type of file.

    Attributes:
        name: by which it is stored, and which the API tells.
        title: as people write it.
        extensions: of files' names, in small letters and with the dot; the usual one first.
        reader: what `read` calls.
        line_reader: gives the example on one line, its problem, or None for a blank line. A file whose examples are
            lines is checked while its bytes arrive, and sampled without being read whole. None: they are not lines.
        signature: None: the type's files can begin with anything.
        require: raises InvalidInput where the type cannot be read, for want of a package. None: it always can.
        needs_own_process: a file that nobody has checked may bring down the process that reads it.
    """

    name: str
    title: str
    extensions: tuple[str, ...]
    reader: Reader
    line_reader: LineReader | None = None
    signature: Signature | None = None
    require: Callable[[], object] | None = None
    needs_own_process: bool = False

    def read(self, content: BinaryIO, max_line_bytes: int = NO_LIMIT) -> Iterator[Example | LineProblem]:
        """Read examples one by one; a line that is none comes as its problem, and reading goes on where it can.

        Args:
            content: at its beginning, and seekable.
            max_line_bytes: of one line, record or row; memory grows with it.

        Raises:
            ParquetNotInstalled: the file is Parquet, and the package that reads it is missing.
        """
        return self.reader(content, max_line_bytes)
