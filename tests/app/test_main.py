"""Creating the app, starting it for real, and what that must not load."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from core.errors import SchemaMismatch
from core.settings import Settings
from tests.app.conftest import LOCAL
from tests.harness.migrated import write_migrated

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["app.main", "app.server"])
def test_importing_the_api_loads_no_model_library(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_creating_the_app_does_no_io(tmp_path: Path) -> None:
    create_app(Settings(home=tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_the_real_parts_start_and_stop(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, base_models=("phi-2",), broker_url=f"redis+socket://{tmp_path}/no.sock", engine_urls={}
    )
    write_migrated(tmp_path / "loramill.db")
    with TestClient(create_app(settings), base_url=LOCAL) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/models").json()["data"][0]["id"] == "phi-2"
        parts = client.get("/readyz").json()["parts"]
    assert parts["database"]["ok"] is True
    assert parts["broker"]["ok"] is False
    assert parts["engine:phi-2"]["ok"] is False


def test_a_database_of_another_version_refuses_the_start(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(SchemaMismatch, match="loramill migrate"):
        asyncio.run(start())


def test_the_description_names_every_route_and_is_served(tmp_path: Path) -> None:
    description = create_app(Settings(home=tmp_path)).openapi()
    assert {"/v1/files", "/v1/fine_tuning/jobs", "/v1/completions", "/generate", "/"} <= set(description["paths"])
    assert "/openapi.json" not in description["paths"]
