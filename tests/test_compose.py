"""Dockerfile and compose files name only what exists: commands, options, settings, ports, routes, extras."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.routing import Route

from app.operations import health
from core.settings import PREFIX, Settings
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app
from worker.native.compiling import PREBUILT, find_or_compile

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def variables(service: dict[str, Any]) -> dict[str, str]:
    """Give a service's settings with placeholders filled, as compose would."""
    filled = {}
    for name, value in service["environment"].items():
        filled[name] = re.sub(r"\$\{\w+:\?[^}]*\}", "filled-in-by-compose", value)
    return filled


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for variable, value in variables(SERVICES[name]).items():
        monkeypatch.setenv(variable, value)
    return Settings()


def stages() -> dict[str, list[str]]:
    """Give each build stage's instructions, its base stages' first."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        if opening := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = opening[2]
            found[name] = list(found.get(opening[1], [line]))
        elif name and line and not line.startswith("#"):
            found[name].append(line)
    return found


def health_url(service: dict[str, Any]) -> tuple[int, str]:
    match = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(service["healthcheck"]["test"]))
    assert match
    return int(match[1]), match[2]


def test_the_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {"migrate", "base-models", "api", "worker", "engine", "postgres", "valkey"}


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_option_exists(name: str) -> None:
    command: list[str] = OURS[name]["command"]
    path = [word for word in command[:2] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
    shown = subprocess.run(
        [sys.executable, "-m", "app", *path, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    assert shown.returncode == 0, shown.stderr
    for word in command:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", shown.stdout), f"`loramill {' '.join(path)}` has no {word}"


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert set(variables(OURS[name])) <= known
    settings_of(name, monkeypatch)


@pytest.mark.parametrize("stage", ["api", "gpu"])
def test_every_variable_of_the_images_is_a_setting(stage: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    named = {name for line in stages()[stage] for name in re.findall(rf"{PREFIX}\w+", line)}
    assert named
    assert named <= known


def test_kernels_are_compiled_where_they_are_installed_from_and_looked_for() -> None:
    installing = stages()["gpu-installed"]
    (compiling,) = (
        number for number, line in enumerate(installing) if line.endswith(f"-m {find_or_compile.__module__}")
    )
    (installed,) = (number for number, line in enumerate(installing) if "--no-deps" in line)
    assert compiling < installed
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    library = PREBUILT.relative_to(ROOT) / "kernels-avx2.so"
    assert any(PurePosixPath(library).match(pattern) for pattern in wheel["artifacts"])
    assert not any("g++" in line for line in stages()["gpu"])


@pytest.mark.parametrize("name", OURS)
def test_all_state_lies_on_the_volume(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(name, monkeypatch)
    mounts = [PurePosixPath(volume.split(":")[1]) for volume in OURS[name]["volumes"]]
    for folder in (settings.store_folder, settings.base_models_folder, settings.runs_folder):
        assert any(PurePosixPath(folder).is_relative_to(mount) for mount in mounts)


def test_every_named_volume_is_declared_and_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_the_api_listens_where_compose_and_the_health_check_look(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("api", monkeypatch)
    published, inside = SERVICES["api"]["ports"][0].rsplit(":", 2)[1:]
    assert int(inside) == settings.port == health_url(SERVICES["api"])[0]
    assert published == "8000"
    assert settings.host == "0.0.0.0"
    assert settings.api_key is not None


def test_the_engine_listens_where_the_api_asks_for_it() -> None:
    command = SERVICES["engine"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    urls = json.loads(SERVICES["api"]["environment"]["LORAMILL_ENGINE_URLS"])
    assert urls == {options["--base-model"]: f"http://engine:{options['--port']}"}
    assert int(options["--port"]) == health_url(SERVICES["engine"])[0]


def test_the_engine_answers_to_the_name_that_the_api_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {urlsplit(url).hostname for url in settings_of("api", monkeypatch).engine_urls.values()}
    assert set(settings_of("engine", monkeypatch).allowed_hosts) == asked


def test_only_what_asks_the_database_gets_its_password() -> None:
    told = {name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in json.dumps(service)}
    assert told == {"migrate", "api", "worker", "postgres"}
    assert {name for name, service in OURS.items() if "LORAMILL_API_KEY" in service["environment"]} == {"api"}


def test_every_base_model_is_imported_and_has_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("api", monkeypatch)
    assert settings.base_models == ("phi-2",)
    assert set(settings.base_models) == set(settings.engine_urls) == set(SERVICES["base-models"]["command"][2:])


def test_health_checks_ask_routes_that_exist() -> None:
    paths = {route.path for route in health.router.routes if isinstance(route, Route)}
    assert health_url(SERVICES["api"])[1] in paths
    assert all(path in paths for path in re.findall(r"127\.0\.0\.1:8000(/\w+)", DOCKERFILE))


def test_the_engines_health_check_asks_a_route_that_exists() -> None:
    class NoEngine:
        """The routes are looked at, never called."""

    app = create_app(NoEngine(), EngineMetrics())  # type: ignore[arg-type]
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    assert health_url(SERVICES["engine"])[1] in paths


def test_services_wait_for_what_they_need() -> None:
    conditions = {
        (name, other): wait["condition"]
        for name, service in SERVICES.items()
        for other, wait in service.get("depends_on", {}).items()
    }
    for (name, other), condition in conditions.items():
        is_one_shot = "restart" not in SERVICES[other]
        expected = "service_completed_successfully" if is_one_shot else "service_healthy"
        assert condition == expected, f"{name} waits for {other}"
        assert is_one_shot or "healthcheck" in SERVICES[other]
    assert {"migrate", "base-models"} == {name for name in SERVICES if "restart" not in SERVICES[name]}


def test_images_are_pinned_and_logs_are_bounded() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+", service["image"]), name
        assert service["logging"]["options"].keys() >= {"max-size", "max-file"}, name
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert base in stages() or re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base), base


def test_a_key_and_a_password_must_be_given() -> None:
    assert SERVICES["api"]["environment"]["LORAMILL_API_KEY"].startswith("${LORAMILL_API_KEY:?")
    assert "${POSTGRES_PASSWORD:?" in SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]


def test_a_worker_gets_longer_to_stop_than_its_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    grace_s = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings_of("worker", monkeypatch).stop_grace_s


@pytest.mark.parametrize("name", OURS)
def test_services_build_targets_that_exist(name: str) -> None:
    target = OURS[name]["build"]["target"]
    assert target in stages()
    needs_torch = name in {"worker", "engine", "base-models"}
    assert target == ("gpu" if needs_torch else "api")


def test_the_gpu_overlay_reserves_for_services_that_exist() -> None:
    overlay = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text("utf-8"))["services"]
    assert set(overlay) == {"worker", "engine"}
    for service in overlay.values():
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
        assert "deploy" not in SERVICES["worker"]


@pytest.mark.parametrize("target", ["api", "gpu"])
def test_images_run_as_an_ordinary_user_who_owns_the_volume(target: str) -> None:
    lines = stages()[target]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'ENTRYPOINT ["loramill"]' in lines
    owned = next(index for index, line in enumerate(lines) if "--owner=1000" in line and "/data" in line)
    assert owned < lines.index("VOLUME /data")
    assert not any("nvidia/cuda" in line for line in lines)


def test_the_images_install_an_extra_and_start_a_script_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = set(re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE))
    assert named == {"engine", "tables"}
    assert named <= set(project["optional-dependencies"])
    assert "loramill" in project["scripts"]  # the images' entry point


def test_the_build_gets_every_file_that_it_copies_or_packs() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packed = set(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    copied = set(re.search(r"^COPY (pyproject\.toml .*) \./$", DOCKERFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    assert packed | copied == sent
    assert all((ROOT / name).exists() for name in sent)
