"""A database that goes away, and one whose migration is killed."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine, event, inspect

from core.store import migrate, revisions
from core.store.db import create_db_engine
from tests.faults.deployment import FaultyDeployment, deployed, job_body
from tests.faults.invariants import Figures, count
from tests.faults.scenario import Impossible
from tests.harness.servers.postgres import PostgresServer, running_postgres
from tests.harness.servers.valkey import Valkey

AWAY_S = 6.0


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server.

    Raises:
        Impossible: there is none on this machine.
    """
    try:
        with running_postgres() as server:
            yield server
    except pytest.skip.Exception as reason:
        raise Impossible(str(reason)) from reason


def postgres_restart(home: Path) -> Figures:
    """A job goes on through two ends of PostgreSQL; meanwhile each answer is a 503 that says when to come again."""
    began_s = time.monotonic()
    with (
        postgres() as server,
        tempfile.TemporaryDirectory(prefix="loramill-") as folder,
        Valkey(Path(folder)) as valkey,
        deployed(home, database_url=server.url(server.create_database()), broker_url=valkey.url) as deployment,
    ):
        deployment.start_api()
        worker = deployment.start_worker()
        file_id = deployment.upload(steps=60, step_s=0.1, checkpoint_every=10)
        jobs = [deployment.create_job(file_id) for _ in range(2)]
        remarks = []
        for number, least_steps in ((signal.SIGINT, 5), (signal.SIGQUIT, 25)):
            deployment.wait_for(partial(_has_come_to, deployment, jobs[0], least_steps), "more steps")
            server.stop(number)
            statuses, without = _answers(deployment, file_id)
            assert statuses == {503}, statuses
            assert without == 0, f"{without} answers of 503 did not say when to come again"
            server.start()
            back_s = time.monotonic()
            deployment.wait_for(lambda: _creates(deployment, file_id, jobs), "a job taken in again")
            remarks.append(f"jobs taken in {time.monotonic() - back_s:.1f} s after the server was back")
        deployment.wait_for_status(jobs, "succeeded", "failed", within_s=240)
        assert worker.poll() is None, "the worker outlives its database's restart"
        return count(deployment, jobs, began_s).noting(*remarks)


def _has_come_to(deployment: FaultyDeployment, job_id: str, steps: int) -> bool:
    return deployment.steps_of(job_id) >= steps


def _answers(deployment: FaultyDeployment, file_id: str) -> tuple[set[int], int]:
    """Ask for `AWAY_S`; give the statuses, and how many of 503 did not say when to come again."""
    statuses, without = set(), 0
    until_s = time.monotonic() + AWAY_S
    while time.monotonic() < until_s:
        for response in (
            deployment.client.get("/v1/fine_tuning/jobs"),
            deployment.client.post("/v1/fine_tuning/jobs", json=job_body(file_id)),
            deployment.client.get("/readyz"),
        ):
            statuses.add(response.status_code)
            is_api = not str(response.request.url).endswith("/readyz")
            without += is_api and response.status_code == 503 and "retry-after" not in response.headers
        time.sleep(0.2)
    return statuses, without


def _creates(deployment: FaultyDeployment, file_id: str, jobs: list[str]) -> bool:
    response: httpx2.Response = deployment.client.post("/v1/fine_tuning/jobs", json=job_body(file_id))
    if response.status_code == 200:
        jobs.append(response.json()["id"])
    return bool(response.status_code == 200)


def killed_migration(home: Path) -> Figures:
    """A migration killed before any of its statements leaves what was there, and the next one ends well."""
    began_s = time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    sites = _kill_everywhere(f"sqlite:///{home}/x.db")
    remarks = [f"SQLite: killed at {sites} places"]
    try:
        with postgres() as server:
            sites = _kill_everywhere(server.url(server.create_database()))
            remarks.append(f"PostgreSQL: killed at {sites} places")
    except Impossible as reason:
        remarks.append(f"PostgreSQL left out: {reason}")
    return Figures(0, 0, 0, 0, 0, time.monotonic() - began_s, tuple(remarks))


def _kill_everywhere(url: str) -> int:
    """Kill upgrades of one empty database before the first, second… statement and the commit; give how many."""
    for sites in itertools.count():
        if not _is_killed(url, sites):
            revisions.check_schema(url)
            return sites
        assert _tables(url) == [], f"killed before statement {sites}, it left tables behind"
    raise AssertionError("there is no end of counting")


def _is_killed(url: str, before: int) -> bool:
    """Upgrade in a process that is killed before this statement; tell whether it came so far."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    process = processes.Process(target=_upgrade_and_die, args=(url, before))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _upgrade_and_die(url: str, before: int) -> None:
    passed = itertools.count()

    def pass_or_die(*_details: object) -> None:
        if next(passed) == before:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", pass_or_die)
    event.listen(Engine, "commit", pass_or_die)
    migrate.upgrade(url)


def _tables(url: str) -> list[str]:
    db_engine = create_db_engine(url)
    try:
        return inspect(db_engine).get_table_names()
    finally:
        db_engine.dispose()
