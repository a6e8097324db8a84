"""Which level of CPU is taken."""

import platform

import pytest

from core.errors import SettingsInvalid
from core.process import cpu_levels
from core.process.cpu_levels import choose_level, list_levels, list_own_levels
from core.settings import CpuLevel

AVX2 = ["fma", "f16c", "avx", "avx2", "bmi1", "bmi2", "abm", "movbe"]
AVX512 = [*AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, *features: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu_levels, "read_cpu_features", lambda: frozenset(features))


@pytest.mark.parametrize(
    ("machine", "features", "best"),
    [
        ("x86_64", [*AVX512, "avx512_bf16"], "avx512_bf16"),
        ("x86_64", AVX512, "avx512"),
        ("x86_64", [*AVX2, "avx512f"], "avx2"),
        ("x86_64", AVX2[1:], "portable"),
        ("x86_64", [], "portable"),
        ("aarch64", ["asimd"], "neon"),
        ("riscv64", [], "portable"),
    ],
)
def test_the_best_that_the_machine_has_is_taken(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: list[str], best: str
) -> None:
    pretend(monkeypatch, machine, *features)
    assert choose_level(None).name == best


def test_a_lower_one_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "x86_64", *AVX512)
    assert choose_level("avx2").name == "avx2"


@pytest.mark.parametrize("level", ["avx512_bf16", "neon"])
def test_one_that_the_machine_lacks_is_refused_with_those_that_it_has(
    monkeypatch: pytest.MonkeyPatch, level: CpuLevel
) -> None:
    pretend(monkeypatch, "x86_64", *AVX512)
    with pytest.raises(SettingsInvalid, match=rf"LORAMILL_ENGINE_CPU_LEVEL is {level}.*it has avx512, avx2, portable"):
        choose_level(level)


def test_this_machine_has_one_of_its_architectures() -> None:
    assert list_own_levels()
    assert set(list_own_levels()) <= set(list_levels())
