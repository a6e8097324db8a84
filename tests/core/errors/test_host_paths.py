"""What clients are told names files of this machine and never where they lie."""

import pytest

from core.errors.host_paths import without_host_paths


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "base model x is not imported in /home/me/var/base-models; run it",
            "base model x is not imported in base-models; run it",
        ),
        ('File "/usr/lib/python3.11/json/decoder.py", line 3', 'File "decoder.py", line 3'),
        (
            "[Errno 2] No such file or directory: '/tmp/a/b.safetensors'",
            "[Errno 2] No such file or directory: 'b.safetensors'",
        ),
        ("unix:///run/x/engine.sock is gone", "unix:engine.sock is gone"),
        ("/var/lib/a/ and (/etc/passwd)", "a and (passwd)"),
    ],
)
def test_a_path_of_this_machine_is_cut_down_to_its_name(said: str, told: str) -> None:
    assert without_host_paths(said) == told


@pytest.mark.parametrize(
    "text",
    [
        "no such model: x; GET /v1/models lists the ones there are",
        "see https://example.org/home/me",
        "tokens/s of home/me and and/or",
        "step 3/4: 0.5",
    ],
)
def test_routes_addresses_and_ratios_stay(text: str) -> None:
    assert without_host_paths(text) == text
