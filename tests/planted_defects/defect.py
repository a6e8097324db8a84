"""What a planted defect is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """A mistake that was made somewhere before: text that stands once in ``file``, and what to write for it.

    ``tests`` are pytest's names of the tests of which at least one must fail then. A name that begins
    with a number belongs to the golden file or to the ``test_trap_…`` of that number.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
