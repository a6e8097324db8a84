"""The choice of number types, by probes of machines that are not here."""

import pytest

from benchmarks.host.number_types import NumberType, NumberTypes, probe_number_types
from worker.models import precision


@pytest.mark.parametrize(
    ("speedup", "measured", "hopeless"),
    [
        (0.1, ("float32",), "bfloat16"),  # AVX2: emulated
        (0.5, ("float32", "bfloat16"), None),
        (1.1, ("float32", "bfloat16"), None),  # not worth its rounding
        (2.0, ("bfloat16", "float32"), None),
        (4.0, ("bfloat16",), "float32"),
    ],
)
def test_the_probe_says_which_type_is_fastest_and_whether_the_other_is_hopeless(
    speedup: float, measured: tuple[NumberType, ...], hopeless: NumberType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(precision, "bf16_speedup", lambda *_: speedup)
    types = probe_number_types()
    assert types.measured == measured
    assert types.fastest == measured[0]
    assert types.hopeless == hopeless
    assert types.as_dict() == {"fastest": measured[0], "bf16_speedup": speedup, "hopeless": hopeless}


def test_a_gpu_is_measured_in_both_types() -> None:
    assert NumberTypes("bfloat16", None).measured == ("bfloat16", "float32")
    assert NumberTypes("float32", None).measured == ("float32", "bfloat16")


def test_a_larger_product_is_tried_only_where_small_ones_leave_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []

    def probe(small: float) -> NumberTypes:
        def speedup(*shape: int) -> float:
            tried.append(shape)
            return 0.2 if shape else small

        monkeypatch.setattr(precision, "bf16_speedup", speedup)
        return probe_number_types()

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert probe(0.4) == NumberTypes("float32", 0.2)
    assert any(tried)
    tried.clear()
    assert probe(0.1) == NumberTypes("float32", 0.1)
    assert not any(tried)


def test_what_the_product_chooses_is_never_hopeless() -> None:
    assert NumberTypes("bfloat16", 0.2).hopeless is None
    assert NumberTypes("float32", 4.0).hopeless is None
