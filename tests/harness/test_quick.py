"""Imports tell which test files `make check` runs."""

import pytest

from tests.harness.quick import ROOT, is_quick


@pytest.mark.parametrize("file", ["core/text/test_mustache.py", "core/store/test_jobs.py", "app/http/test_auth.py"])
def test_a_file_that_needs_only_what_is_in_its_process_is_quick(file: str) -> None:
    assert is_quick(ROOT / "tests" / file)


@pytest.mark.parametrize(
    "file",
    [
        "worker/models/test_loading.py",  # imports torch itself
        "core/serving/test_http_engine.py",  # by way of the engine's server
        "worker/training/data/test_plan.py",  # by way of the conftest beside it
    ],
)
def test_a_file_that_leads_to_a_model_library_is_not(file: str) -> None:
    assert not is_quick(ROOT / "tests" / file)


@pytest.mark.parametrize("file", ["app/cli/test_main.py", "worker/jobs/test_runner.py"])
def test_a_file_that_starts_processes_is_not(file: str) -> None:
    assert not is_quick(ROOT / "tests" / file)
