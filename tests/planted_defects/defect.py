"""What a planted defect is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A mistake that was made somewhere before: a piece of program, and what to write for it.

    ``in_`` is where the piece stands: ``module:function``, ``module:Class.method`` or, for what stands
    outside of both, ``module``. ``replace`` and ``by`` are source with wildcards (see
    `tests.planted_defects.pattern`); ``replace`` fits once in there.

    ``tests`` are pytest's names of the tests of which at least one must fail then. A name that begins
    with a number belongs to the golden file or to the ``test_trap_…`` of that number.
    """

    name: str
    in_: str
    replace: str
    by: str
    tests: tuple[str, ...]
