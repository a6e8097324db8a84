"""What is said of an adapter's memory follows from its scores and its base model's."""

from collections.abc import Sequence

import pytest

from core.evaluations.general_text import PASSAGES
from core.evaluations.memory import MemoryReport, report_memory
from core.evaluations.scores import ModelScores, RowScores
from core.evaluations.spec import EvaluationSpec, JudgedModel, TrainedRows
from core.jobs.spec import AdapterRef, FileRef
from core.text.render_settings import RenderSettings
from tests.harness.evaluation_specs import make_evaluation_spec

FILE = FileRef(id="file-x", sha256="0" * 64, examples=9, file_type="jsonl")
TUNED = JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256="a" * 64))


def rows(nats: Sequence[float], extracted: Sequence[float | None] = (), tokens: int = 10) -> list[RowScores]:
    heart = list(extracted) or [None] * len(nats)
    return [
        RowScores(line, f"{line:016x}", tokens, {"nats_per_token": loss, "extracted": known})
        for line, (loss, known) in enumerate(zip(nats, heart, strict=True))
    ]


def spec_of(**fields: object) -> EvaluationSpec:
    models = (JudgedModel(name="tiny"), TUNED)
    trained = (TrainedRows(model="ft:x", file=FILE, rendering=RenderSettings(), lines=(1, 2, 3)),)
    return make_evaluation_spec(FILE, **{"models": models, "general_text": 1, "trained": trained} | fields)


def report(spec: EvaluationSpec, **parts: tuple[list[RowScores], list[RowScores]]) -> MemoryReport:
    """Report on the adapter, of which each part has the base model's rows and its own."""
    ranges = {"judged": spec.judged_rows, "general": spec.general_rows}
    ranges |= {"trained": spec.trained_rows(0)} if spec.trained else {}

    def scores_of(numbers: range) -> list[ModelScores]:
        name = next(name for name, those in ranges.items() if those == numbers)
        base, tuned = parts[name]
        return [ModelScores("tiny", base), ModelScores("ft:x", tuned)]

    [found] = report_memory(spec, scores_of)
    return found


GENERAL = [2.0 + place / 10 for place in range(len(PASSAGES))]


def test_rows_are_numbered_through() -> None:
    spec = spec_of()
    assert (spec.judged_rows, spec.general_rows) == (range(2), range(2, 2 + len(PASSAGES)))
    assert spec.trained_rows(0) == range(2 + len(PASSAGES), 5 + len(PASSAGES))


def test_an_adapter_that_knows_general_text_worse_is_told_with_the_register_that_lost_most() -> None:
    worse = [loss + (1.5 if PASSAGES[place][0] == "code" else 0.5 + place / 100) for place, loss in enumerate(GENERAL)]
    found = report(
        spec_of(),
        general=(rows(GENERAL), rows(worse)),
        judged=(rows([2.0, 2.0]), rows([1.0, 1.0])),
        trained=(rows([2.1] * 3, [0.0, 0.0, None]), rows([0.2] * 3, [1.0, 0.0, None])),
    )
    assert found.forgetting.interval is not None
    assert found.forgetting.interval.low > 0
    assert found.text.startswith("ft:x knows general text less well than before: ")
    assert "most of all code." in found.text
    assert found.memory is not None
    assert found.memory.gap == pytest.approx(0.8)
    assert found.memory.base_gap == pytest.approx(-0.1)
    assert (found.memory.askable, found.memory.extracted, found.memory.base_extracted) == (2, 0.5, 0.0)
    assert "the training's share is +0.900" in found.text
    assert "exactly in 50% of 2 trained rows, the base model in 0%" in found.text


def test_an_adapter_that_changed_nothing_differs_by_exactly_nothing() -> None:
    same = (rows(GENERAL), rows(GENERAL))
    found = report(spec_of(), general=same, judged=(rows([1.0] * 2),) * 2, trained=(rows([1.0] * 3, [None] * 3),) * 2)
    assert (found.forgetting.change, found.memory and found.memory.gap) == (0.0, 0.0)
    assert "No change of ft:x on general text can be told" in found.text
    assert "too short to ask" in found.text


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    found = report(spec_of(trained=()), general=(rows(GENERAL),) * 2, judged=(rows([1.0] * 2),) * 2)
    assert found.memory is None
    assert found.text.endswith("so nothing is said of what it learnt by heart.")


def test_rows_whose_file_is_gone_are_unknown_too() -> None:
    nothing: tuple[list[RowScores], list[RowScores]] = ([], [])
    found = report(spec_of(), general=(rows(GENERAL),) * 2, judged=(rows([1.0] * 2),) * 2, trained=nothing)
    assert found.memory is not None
    assert (found.memory.rows, found.memory.gap, found.memory.extracted) == (0, None, None)
    assert found.text.endswith("so nothing is said of what it learnt by heart.")


def test_an_evaluation_that_does_not_ask_has_no_report() -> None:
    assert report_memory(spec_of(general_text=None, trained=()), lambda _rows: []) == []


def test_longer_rows_count_more() -> None:
    trained = [*rows([1.0], tokens=30), *rows([2.0, 2.0], tokens=5)]
    found = report(spec_of(), general=(rows(GENERAL),) * 2, judged=(rows([2.0] * 2),) * 2, trained=(trained, trained))
    assert found.memory is not None
    assert found.memory.gap == pytest.approx(2.0 - (30 * 1.0 + 10 * 2.0) / 40)
