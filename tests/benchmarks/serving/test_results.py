import json
from pathlib import Path

import pytest

from benchmarks.serving import results


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "results" / "serve.json"
    results.merge(file, "probe", {"read": 1})
    results.merge(file, "cold", {"cold_load_ms": 200.0})
    results.merge(file, "cold", {"cold_load_ms": 100.0, "worst_gap_steps": 1.5})
    written = json.loads(file.read_text())
    assert written["sections"] == {"probe": {"read": 1}, "cold": {"cold_load_ms": 100.0, "worst_gap_steps": 1.5}}
    assert (written["cold_load_ms"], written["worst_gap_steps"], written["wrong_rows"]) == (100.0, 1.5, None)


def test_each_ratio_is_found_in_its_section_and_is_null_without_it() -> None:
    sections = {
        "decode": {"phi": {"tax": {"r8": 0.04, "r16": 0.07}}, "smollm2": {"generate": {"1": 2.5, "8": 2.7}}},
        "http": {"ratios": {"peft_mixed": 5.0, "vllm_mixed": None}},
    }
    ratios = results.summarise(sections)["ratios"]
    found = {name: value for name, value in ratios.items() if value is not None}
    assert found == {
        "lora_tax_decode_r8": 0.04,
        "lora_tax_decode_r16": 0.07,
        "generate_1": 2.5,
        "generate_8": 2.7,
        "peft_mixed": 5.0,
    }


def test_all_twelve_ratios_and_eight_figures_have_a_meaning() -> None:
    summary = results.summarise({})
    assert len(summary["ratios"]) == 12
    figures = {"cold_load_ms", "worst_gap_steps", "wrong_rows", "ready_first_s", "ready_second_s", "ready_busy_s"}
    figures |= {"ready_stack_first_s", "ready_stack_second_s"}
    assert summary["meaning"].keys() == summary["ratios"].keys() | figures


def test_a_tax_is_the_share_of_time_that_adapters_add() -> None:
    assert results.tax(12.5, 10.0) == pytest.approx(0.25)


def test_a_section_says_when_and_of_which_commit_it_is() -> None:
    stamped = results.stamp({"figure": 1})
    assert stamped["figure"] == 1
    assert stamped["machine"]["at"]
    assert "commit" in stamped
