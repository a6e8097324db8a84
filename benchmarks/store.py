"""How long lists, polls, creations and claims take in a database that has grown.

``python -m benchmarks.store`` fills a database of each kind with 100,000 jobs of which 1,000 wait, and 5,000,000
events (some minutes, and 6 GB), asks the API and the workers' side each question many times in turn, and prints
the median and the slowest in milliseconds. The result is also written to this
machine's folder of benchmarks/results.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog
from rich.console import Console
from rich.table import Table
from starlette.testclient import TestClient

from benchmarks.filled_database import DatabaseSize, fill
from benchmarks.host.machine import result_file, write_result
from benchmarks.serving.results import stamp
from core.base_models.registry import Registry
from core.settings import Settings
from core.store import files, migrate
from core.store.db import Database
from core.store.queue import claims
from core.store.references.recorded import open_recorded
from tests.app.conftest import BASE, EXAMPLES, ApiHarness, import_base
from tests.harness.servers.postgres import running_postgres

WORKER: Final = claims.WorkerIdentity("benchmark", "localhost", 1)

Question = Callable[[], object]


@contextmanager
def open_harness(url: str, home: Path) -> Iterator[ApiHarness]:
    """Open an API over the database, with a base model small enough to take no time."""
    settings = Settings(home=home, base_models=(BASE,), database_url=url)
    database = Database(url)
    registry = Registry(settings.base_models_folder, (import_base(settings),))
    try:
        yield ApiHarness(settings, database, open_recorded(settings.store_folder, database), registry)
    finally:
        database.dispose()


def questions(client: TestClient, database: Database, file_id: str, middle: str) -> dict[str, Question]:
    """Give what is asked, by its name; claims and deletions are rolled back.

    Args:
        middle: what follows the prefix in the ids of the job and the file in the middle.
    """
    jobs = "/v1/fine_tuning/jobs"

    def get(path: str) -> Question:
        return lambda: client.get(path).raise_for_status()

    def claim(*base_models: str) -> Question:
        def ask() -> None:
            with database.write() as session:
                claims.claim(session, WORKER, base_models, int(time.time()))
                session.rollback()

        return ask

    def delete_file() -> None:
        with database.write() as session:
            files.delete(session, f"file-{middle}")
            session.rollback()

    waiting = client.get(jobs, params={"limit": 1}).json()["data"][0]["id"]
    create = {"model": BASE, "training_file": file_id, "metadata": {"team": "t1"}}
    return {
        "jobs, 20": get(f"{jobs}?limit=20"),
        "jobs, 100": get(f"{jobs}?limit=100"),
        "jobs, 100 from the middle": get(f"{jobs}?limit=100&after=ftjob-{middle}"),
        "jobs by a frequent pair, 20": get(f"{jobs}?limit=20&metadata[team]=t1"),
        "jobs by a pair that none has": get(f"{jobs}?limit=20&metadata[team]=none"),
        "events of a job, 100": get(f"{jobs}/ftjob-{middle}/events?limit=100"),
        "checkpoints of a job": get(f"{jobs}/ftjob-{middle}/checkpoints"),
        "files, 100": get("/v1/files?limit=100"),
        "files of a rare purpose": get("/v1/files?limit=100&purpose=fine-tune"),
        "models, 100": get("/v1/models?limit=100"),
        "models, 1000": get("/v1/models"),
        "poll of the last waiting job": get(f"{jobs}/{waiting}"),
        "create": lambda: client.post(jobs, json=create).raise_for_status(),
        "claim": claim(BASE),
        "empty claim": claim("another"),
        "empty claim for three base models": claim("another", "third", "fourth"),
        "delete a file": delete_file,
    }


def measure(url: str, amount: DatabaseSize, repetitions: int) -> dict[str, dict[str, float]]:
    """Fill the database and give the times of each question in milliseconds."""
    migrate.upgrade(url)
    with (
        tempfile.TemporaryDirectory() as home,
        open_harness(url, Path(home)) as harness,
        TestClient(harness.app(), base_url="http://localhost") as client,
    ):
        upload = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", EXAMPLES)})
        file_id = upload.raise_for_status().json()["id"]
        fill(harness.database, file_id, amount)
        asked = questions(client, harness.database, file_id, middle=f"{amount.jobs // 2:032x}")
        times: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(repetitions):
            for name, ask in asked.items():
                began_s = time.perf_counter()
                ask()
                times[name].append((time.perf_counter() - began_s) * 1000)
    return {name: {"median_ms": statistics.median(found), "most_ms": max(found)} for name, found in times.items()}


def main() -> None:
    """Measure both databases, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--waiting", type=int, default=1_000, help="how many of them wait")
    parser.add_argument("--events", type=int, default=50, help="of each job")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    amount = DatabaseSize(options.jobs, options.waiting, options.events)
    console = Console()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with ExitStack() as open_until_done:
        folder = Path(open_until_done.enter_context(tempfile.TemporaryDirectory()))
        server = open_until_done.enter_context(running_postgres())
        urls = {"SQLite": f"sqlite:///{folder / 'grown.db'}", "PostgreSQL": server.url(server.create_database())}
        found = {name: measure(url, amount, options.repetitions) for name, url in urls.items()}
    table = Table("question", *(f"{name}, median (most) ms" for name in found))
    for question in found["SQLite"]:
        cells = (f"{times[question]['median_ms']:.1f} ({times[question]['most_ms']:.1f})" for times in found.values())
        table.add_row(question, *cells)
    console.print(table)
    write_result(result_file("store"), stamp({"amount": vars(options), "databases": found}))


if __name__ == "__main__":
    main()
