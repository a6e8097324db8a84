"""The doctor's checks on made-up conditions."""

import json
import socket
from pathlib import Path

import pytest

from app.cli import doctor
from app.cli.check_result import CheckResult, Status
from app.cli.doctor import CHECKS, report
from core.settings import Settings
from core.store.migrate import upgrade


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Settings(home=tmp_path, port=port)


def test_the_ids_are_fixed() -> None:
    assert list(CHECKS) == [
        *("python", "packages", "torch", "cpu", "memory", "disk", "home", "port", "database", "base-models")
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
