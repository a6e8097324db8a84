"""Holds a file to the format of its first example, wherever it is read: uploaded, linted or previewed."""

from collections.abc import Iterable, Iterator

from core.errors import ExampleInvalid
from core.text.files.examples import Example, ExampleFormat, LineProblem, format_of


class OneFormat:
    """Takes a file's examples in order. ``format`` is the first one's; None before there was one."""

    def __init__(self) -> None:
        self.format: ExampleFormat | None = None

    def check(self, example: Example | LineProblem) -> Example | LineProblem:
        """Pass an example or problem on; an example of another format as the problem that it is."""
        if isinstance(example, LineProblem):
            return example
        own = format_of(example)
        self.format = self.format or own
        if own == self.format:
            return example
        reason = f'its format is "{own}", but the file began with "{self.format}"; use one in a file'
        return LineProblem(example.line, reason, "mixed_formats")


def checked(found: Iterable[Example | LineProblem]) -> Iterator[Example]:
    """Pass examples on.

    Raises:
        ExampleInvalid: at a line that is none, or has another format than the first one.
    """
    for example in map(OneFormat().check, found):
        if isinstance(example, LineProblem):
            raise ExampleInvalid(str(example), (example.line,)) from example
        yield example
