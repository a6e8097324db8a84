"""A defect finds its place by module, function and pattern, and says what is near when it does not."""

from pathlib import Path

import pytest

from tests.planted_defects.anchor import AnchorLost, laid_out, module_path, with_defect
from tests.planted_defects.defect import Defect

SHARE = """
LIMIT = 3

class Batch:
    def share(self, rows):
        mask = None if all(rows) else rows.copy(deep=True)  # a reason
        if mask:
            self.note(mask)
            self.count += 1
        return mask, rows[0] + rows[1]
"""


def defect(replace: str, by: str, in_: str = "room.mask:Batch.share") -> Defect:
    return Defect(name="x", in_=in_, replace=replace, by=by, tests=())


@pytest.mark.parametrize(
    ("replace", "by", "old", "new"),
    [
        ("None if $whole else $mask", "$mask", "None if all(rows) else rows.copy(deep=True)", "rows.copy(deep=True)"),
        (
            "$mask = None if $w else $copy",
            "$mask = 3",
            "mask = None if all(rows) else rows.copy(deep=True)",
            "mask = 3",
        ),
        ("$x.copy($$$how)", "$x.copy($$$how, order=1)", "copy(deep=True)", "copy(deep=True, order=1)"),
        ("$x.copy($$$how, deep=$yes)", "$x.copy($$$how)", "copy(deep=True)", "copy()"),
        ("$x.$copied(deep=True)", "$copied($x, $x * 2)", "rows.copy(deep=True)", "copy(rows, rows * 2)"),
        ("$x[0] + $x[1]", "$x * 2", "rows[0] + rows[1]", "rows * 2"),
        ("self.count += 1", "pass", "self.count += 1", "pass"),
        (
            "self.note($x)\nself.count += 1",
            "self.note(1)",
            "self.note(mask)\n            self.count += 1",
            "self.note(1)",
        ),
        (
            "if $x:\n    $$$then",
            "$$$then",
            "if mask:\n            self.note(mask)\n            ",
            "self.note(mask)\n        ",
        ),
        ("self.note($x)", "self.note($x)\nlog($x)", "self.note(mask)", "self.note(mask)\n            log(mask)"),
    ],
)
def test_the_program_with_it_has_the_filled_pattern(replace: str, by: str, old: str, new: str) -> None:
    assert SHARE.count(old) == 1
    assert with_defect(SHARE, defect(replace, by)) == laid_out(SHARE.replace(old, new))


def test_without_a_function_it_stands_anywhere_in_the_module() -> None:
    assert with_defect(SHARE, defect("LIMIT = $n", "LIMIT = $n * 2", "room.mask")).startswith("LIMIT = 3 * 2\n")


@pytest.mark.parametrize(
    ("replace", "by", "in_", "said"),
    [
        ("rows", "None", "room.mask:Batch.share", "fits 4 times in room.mask:Batch.share: lines 6, 6, 10, 10"),
        ("None if any($x) else $y", "1", "room.mask:Batch.share", r"near:\n  None if all\(rows\) else"),
        ("$x[0] + $x[0]", "1", "room.mask:Batch.share", r"fits nothing .*\n  rows\[0\] \+ rows\[1\]"),
        ("$x.copy(deep=False)", "1", "room.mask:Batch.share", "fits nothing"),
        ("$x.copy()", "1", "room.mask:Batch.share", "fits nothing"),
        ("LIMIT = 3", "LIMIT = 4", "room.mask:Batch.share", "fits nothing"),
        ("LIMIT = 3.0", "LIMIT = 4", "room.mask", "fits nothing"),
        ("LIMIT = 3", "LIMIT = $other", "room.mask", r"\$other is in what to write, but not in what to replace"),
        ("rows", "None", "room.mask:share", r"room.mask has no share; near: Batch.share"),
        ("rows", "None", "room.mask:Batch.shape", r"room.mask has no Batch.shape; near: Batch.share"),
    ],
)
def test_a_place_that_is_gone_or_doubled_is_refused_with_what_is_near(
    replace: str, by: str, in_: str, said: str
) -> None:
    with pytest.raises(AnchorLost, match=said):
        with_defect(SHARE, defect(replace, by, in_))


def test_a_module_that_is_gone_is_refused_with_where_its_function_is_now(tmp_path: Path) -> None:
    (tmp_path / "room" / "mask").mkdir(parents=True)
    moved = tmp_path / "room" / "mask" / "__init__.py"
    moved.write_text(SHARE)
    assert module_path(tmp_path, defect("rows", "None")) == moved
    moved.rename(tmp_path / "room" / "plan.py")
    with pytest.raises(AnchorLost, match=r"no module room.mask; near: room.plan:Batch.share"):
        module_path(tmp_path, defect("rows", "None"))
    with pytest.raises(AnchorLost, match=r"no module room.plans; near: room.plan$"):
        module_path(tmp_path, defect("rows", "None", "room.plans"))
