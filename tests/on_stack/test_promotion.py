"""An alias is moved back and forth while clients ask it: a real API on a socket before a real engine on a tiny model.

No request fails, every answer is one version's greedy answer to the token and says which version's, and the first one
after a move's answer is the new version's.
"""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.engines.routing import Engines
from app.http.alias_answers import AliasAnswers
from app.http.runtime import ApiRuntime
from app.http.write_probe import WriteProbe
from app.main import create_app
from core.base_models.registry import Registry
from core.settings import Settings
from core.store.db import Database
from core.store.references.recorded import open_recorded
from tests.app.conftest import RecordingNotifier, serving
from tests.harness.migrated import write_migrated
from tests.harness.models.published_model import publish
from tests.harness.models.tiny_models import write_tiny_phi
from tests.harness.one_thread import one_thread
from tests.worker.inference.engine_harness import EngineHarness

BASE, ALIAS = "tiny-phi", "bot@prod"
VERSIONS = ("ft:tiny-phi:local:bot:1", "ft:tiny-phi:local:bot:2")
PROMPTS = [f"Question {number}:" for number in range(6)]
CLIENTS = 8
TOKENS = 12


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with serving_two_versions(tmp_path) as address:
        yield address


@contextmanager
def serving_two_versions(home: Path) -> Iterator[str]:
    """Give the address of an API over an engine that has two versions of a family."""
    engines = EngineHarness(write_tiny_phi(home / "base-models" / BASE), home)
    settings = Settings(home=home, base_models=(BASE,))
    write_migrated(home / "loramill.db")
    database = Database(settings.database)
    for seed, name in enumerate(VERSIONS):
        with database.write() as session:
            publish(session, name, engines.add_adapter(seed=seed), BASE, suffix="bot")

    @asynccontextmanager
    async def opener(_settings: Settings) -> AsyncIterator[ApiRuntime]:
        async with engines.engine() as engine:
            yield ApiRuntime(
                settings=settings,
                database=database,
                blobs=open_recorded(settings.store_folder, database),
                registry=Registry(settings.base_models_folder, ()),
                engines=Engines({BASE: engine}),
                doorbell=RecordingNotifier(),
                writes=WriteProbe(database),
                alias_answers=AliasAnswers(database),
            )

    with one_thread(), serving(create_app(settings, opener)) as address:
        yield address
    database.dispose()


@dataclass
class Asking:
    """Clients that ask the alias until they are stopped; what any of them finds wrong is kept."""

    url: str
    greedy: dict[str, dict[str, str]]  # by version and prompt
    stop: threading.Event = field(default_factory=threading.Event)
    wrong: list[str] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERSIONS, 0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> None:
        with httpx2.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            turn = number
            while not self.stop.is_set():
                turn += 1
                prompt = PROMPTS[turn % len(PROMPTS)]
                try:
                    version, text = complete(client, ALIAS, prompt)
                    right = self.greedy[version][prompt]
                except Exception as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    return
                with self.lock:
                    self.answered[version] += 1
                if text != right:
                    self.wrong.append(f"{version} answered {prompt!r} by {text!r}, and alone by {right!r}")


def complete(client: httpx2.Client, model: str, prompt: str) -> tuple[str, str]:
    """Give the version that says that it answers, and its answer."""
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert response.headers["x-adapter-id"] == answer["model"]
    return answer["model"], answer["choices"][0]["text"]


def move(client: httpx2.Client, model: str) -> None:
    response = client.put(f"/v1/models/aliases/{ALIAS}", json={"model": model})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("moves", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_moves_under_load_cost_no_request_and_mix_no_weights(url: str, moves: int) -> None:
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        greedy = {model: {prompt: complete(client, model, prompt)[1] for prompt in PROMPTS} for model in VERSIONS}
        assert all(greedy[VERSIONS[0]][prompt] != greedy[VERSIONS[1]][prompt] for prompt in PROMPTS)
        move(client, VERSIONS[0])
        asking = Asking(url, greedy)
        threads = [threading.Thread(target=asking.run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, moves + 1):
                model = VERSIONS[number % 2]
                move(client, model)
                prompt = PROMPTS[number % len(PROMPTS)]
                assert complete(client, ALIAS, prompt) == (model, greedy[model][prompt])
        finally:
            asking.stop.set()
            for thread in threads:
                thread.join()
        assert asking.wrong == []
        assert min(asking.answered.values()) > 0
        told = client.get(f"/v1/models/aliases/{ALIAS}", params={"limit": 1000}).json()
    assert [line["number"] for line in told["history"]] == list(range(moves + 1, 0, -1))
    counted = [side for line in told["history"] for side in line["answers"]]
    assert sum(side["answers"] for side in counted) == sum(asking.answered.values()) + moves
    assert sum(side["failed"] for side in counted) == 0
