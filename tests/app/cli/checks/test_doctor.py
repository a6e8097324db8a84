"""The doctor's checks on made-up conditions."""

import importlib.metadata
import json
import socket
from pathlib import Path

import pytest

from app.cli.checks import doctor
from app.cli.checks.check_result import CheckResult, Status
from app.cli.checks.doctor import CHECKS, report
from core.process import gpu
from core.settings import Settings
from core.store.migrate import upgrade


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Settings(home=tmp_path, port=port)


def test_the_ids_are_fixed() -> None:
    assert list(CHECKS) == [
        *("python", "packages", "torch", "cpu", "memory", "disk", "home", "port", "database", "base-models"),
        "engines",
    ]


def test_a_fresh_home_only_lacks_the_base_model(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(settings, as_json=True)
    findings = {finding["id"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["base-models"] == {
        "id": "base-models",
        "status": "warning",
        "found": "not imported: smollm2-135m-instruct",
        "remedy": "run `loramill base-models import smollm2-135m-instruct`",
    }
    for name in ("python", "home", "port", "database"):
        assert findings[name]["status"] == "ok"
    assert list(settings.home.iterdir()) == []  # it only looked


def test_a_taken_port_fails_with_its_remedy(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", settings.port))  # holds the port, answers nobody
        finding = CHECKS["port"](settings)
    assert finding.status is Status.FAIL
    assert "LORAMILL_PORT" in str(finding.remedy)


def test_a_database_without_tables_fails_until_it_is_migrated(settings: Settings) -> None:
    (settings.home / "loramill.db").touch()
    finding = CHECKS["database"](settings)
    assert finding.status is Status.FAIL
    assert "loramill migrate" in str(finding.remedy)
    upgrade(settings.database)
    assert CHECKS["database"](settings).status is Status.OK


def test_a_base_model_that_no_registry_has_fails(settings: Settings) -> None:
    finding = CHECKS["base-models"](settings.model_copy(update={"base_models": ("nobody",)}))
    assert finding.status is Status.FAIL
    assert "nobody" in str(finding.remedy)


class TestGpu:
    @pytest.fixture(autouse=True)
    def device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        device = tmp_path / "nvidiactl"
        device.touch()
        monkeypatch.setattr(gpu, "DEVICE", device)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0")

    @staticmethod
    def torch_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put a torch of two lines before the real one."""
        (folder / "torch.py").write_text(f"class cuda:\n    init = get_device_name = lambda: {does}\n")
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def test_that_torch_cannot_use_is_told_with_the_reason(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.torch_that("open('no driver')", tmp_path, monkeypatch)
        finding = CHECKS["torch"](settings)
        assert finding.status is Status.WARNING
        assert finding.found.endswith("No such file or directory: 'no driver'")
        assert "CUDA_VISIBLE_DEVICES=-1" in str(finding.remedy)

    def test_that_torch_can_use_is_named(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.torch_that("'NVIDIA H200'", tmp_path, monkeypatch)
        assert CHECKS["torch"](settings) == CheckResult(Status.OK, "2.13.0, NVIDIA H200")

    def test_that_was_hidden_is_not_asked_for(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert CHECKS["torch"](settings) == CheckResult(Status.OK, "2.13.0")


def test_one_failure_makes_the_report_fail(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {
        "a": lambda _: CheckResult(Status.WARNING, "odd"),
        "b": lambda _: CheckResult(Status.FAIL, "bad", "mend it"),
    }
    monkeypatch.setattr(doctor, "CHECKS", broken)
    assert not report(settings, as_json=False)
    assert capsys.readouterr().out == "warning  a  odd\nfail     b  bad → mend it\n"
