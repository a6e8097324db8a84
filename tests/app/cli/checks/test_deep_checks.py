"""`loramill doctor --deep` and `loramill gc` on a real store and database, with bytes flipped in both."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text

from app.cli.checks.check_result import CheckResult, Status
from app.cli.checks.deep_checks import DEEP_CHECKS
from core.settings import Settings
from core.store.db import Database
from core.store.references.recorded import open_recorded
from tests.app.cli.command import Done, loramill
from tests.core.store.references.deployment import StoreInUse, write_adapter
from tests.harness.migrated import write_migrated


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def deployment(home: Path) -> Iterator[StoreInUse]:
    """Two models that share a file, and three uploads."""
    settings = Settings(home=home)
    home.mkdir()
    write_migrated(home / "loramill.db")
    database = Database(settings.database)
    deployment = StoreInUse(database, open_recorded(settings.store_folder, database))
    for number in range(2):
        folder = write_adapter(home / f"adapter-{number}", b"weights %d" % number)
        deployment.publish(deployment.claimed(), folder)
    for number in range(3):
        deployment.upload(b"examples %d" % number)
    yield deployment
    database.dispose()


def deep(home: Path) -> dict[str, CheckResult]:
    return {name: check(Settings(home=home)) for name, check in DEEP_CHECKS.items()}


def path_of(home: Path, sha256: str) -> Path:
    return home / "store" / "blobs" / sha256[:2] / sha256


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def age_all(deployment: StoreInUse, hours: int) -> None:
    with deployment.database.write() as session:
        session.execute(text(f"UPDATE blobs SET touched_at = touched_at - {hours * 3600}"))


def failed(done: Done) -> dict[str, str]:
    return {finding["id"]: finding["found"] for finding in json.loads(done.stdout) if finding["status"] == "fail"}


class TestDeepChecks:
    def test_pass_a_whole_deployment_and_change_nothing(self, home: Path, deployment: StoreInUse) -> None:
        before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        assert {name: finding.status for name, finding in deep(home).items()} == dict.fromkeys(DEEP_CHECKS, Status.OK)
        assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before

    def test_pass_a_home_that_was_never_used_and_make_nothing_there(self, tmp_path: Path) -> None:
        assert {finding.status for finding in deep(tmp_path).values()} == {Status.OK}
        assert list(tmp_path.iterdir()) == []

    def test_find_every_flip_in_a_blob_and_say_whose_it_is(self, home: Path, deployment: StoreInUse) -> None:
        random = Random(1)
        digests = sorted(deployment.objects())
        for sha256 in digests:
            path = path_of(home, sha256)
            at, bit = random.randrange(path.stat().st_size), random.randrange(8)
            flip(path, at, bit)
            found = deep(home)["stored-bytes"]
            assert found.status is Status.FAIL
            assert f"1 of {len(digests)} blobs" in found.found
            assert sha256[:12] in found.found
            assert "of no record" not in found.found
            flip(path, at, bit)
        assert deep(home)["stored-bytes"].status is Status.OK

    def test_find_what_is_referred_to_and_gone(self, home: Path, deployment: StoreInUse) -> None:
        [file_id, *_] = deployment.file_ids()
        with deployment.database.read() as session:
            sha256 = str(session.scalar(text("SELECT sha256 FROM files WHERE id = :id"), {"id": file_id}))
        path_of(home, sha256).unlink()
        done = loramill(home, "doctor", "--deep", "--json")
        assert done.returncode == 1
        assert sha256[:12] in failed(done)["references"]
        assert "file file-" in failed(done)["references"]

    def test_find_what_nobody_knows_and_what_has_no_row(self, home: Path, deployment: StoreInUse) -> None:
        with deployment.database.write() as session:
            session.execute(text("DELETE FROM blobs WHERE sha256 IN (SELECT sha256 FROM files)"))
        deployment.blobs.put_bytes(b"nobody's")
        with deployment.database.write() as session:
            session.execute(text("DELETE FROM blobs WHERE bytes = 8"))
        found = deep(home)["references"]
        assert found.status is Status.WARNING
        assert "have no row" in found.found
        assert "1, 8 bytes, are stored and nobody's" in found.found

    def test_find_rows_whose_job_is_gone(self, home: Path, deployment: StoreInUse) -> None:
        with sqlite3.connect(home / "loramill.db") as raw:  # which does not look after foreign keys
            raw.execute("DELETE FROM jobs")
        found = deep(home)["whole-database"]
        assert found.status is Status.FAIL
        for table, rows in (("adapters", 2), ("attempts", 2), ("events", 2)):
            assert f"{rows} rows of {table} name a job_id that jobs does not have" in found.found

    def test_find_a_changed_specification(self, home: Path, deployment: StoreInUse) -> None:
        lease = deployment.claimed()
        with deployment.database.write() as session:
            session.execute(
                text("UPDATE jobs SET spec = replace(spec, '0.001', '0.002') WHERE id = :id"), {"id": lease.job_id}
            )
        found = deep(home)["whole-database"]
        assert found.status is Status.FAIL
        assert f"the specification of job {lease.job_id} has changed" in found.found


class TestFlipsInADatabaseFile:
    """SQLite has no checksums, so not every flip is found; but none ends the doctor otherwise than by a finding."""

    @pytest.mark.parametrize("seed", range(4))
    def test_are_findings_or_unnoticed_and_never_a_traceback(
        self, home: Path, deployment: StoreInUse, seed: int
    ) -> None:
        random = Random(seed)
        file = home / "loramill.db"
        whole = file.read_bytes()
        deployment.database.dispose()
        noticed = 0
        for _ in range(25):
            content = bytearray(whole)
            for _ in range(random.choice([1, 1, 8])):
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
            file.write_bytes(content)
            noticed += any(finding.status is Status.FAIL for finding in deep(home).values())
        file.write_bytes(whole)
        assert noticed > 0
        assert deep(home)["whole-database"].status is Status.OK

    @pytest.mark.parametrize("page", range(6))
    def test_of_whole_pages_are_found(self, home: Path, deployment: StoreInUse, page: int) -> None:
        file = home / "loramill.db"
        content = bytearray(file.read_bytes())
        deployment.database.dispose()
        begin = page * 4096
        content[begin : begin + 4096] = bytes(byte ^ 0xFF for byte in content[begin : begin + 4096])
        file.write_bytes(content)
        assert deep(home)["whole-database"].status is Status.FAIL

    def test_of_its_header_are_said_by_the_command(self, home: Path, deployment: StoreInUse) -> None:
        deployment.database.dispose()
        flip(home / "loramill.db", 3)
        done = loramill(home, "doctor", "--deep", "--json")
        assert done.returncode == 1
        assert "whole-database" in failed(done)
        assert "Traceback" not in done.stderr


class TestGc:
    def test_lists_and_then_frees_what_nothing_refers_to(self, home: Path, deployment: StoreInUse) -> None:
        [name, _] = deployment.live_models()
        frees = deployment.delete_model(name)
        before = deployment.objects()
        assert "would free 0 blobs" in loramill(home, "gc", "--dry-run").stdout  # the grace
        age_all(deployment, 25)
        listed = loramill(home, "gc", "--dry-run").stdout
        assert f"would free 2 blobs, {frees:,} bytes: nothing refers to them for 24 h" in listed
        assert deployment.objects() == before

        freed = json.loads(loramill(home, "gc", "--json").stdout)
        assert (freed["blobs"], freed["bytes"]) == (2, frees)
        assert before - deployment.objects() == set(freed["sha256"])
        assert deployment.lost() == set()

    def test_frees_at_once_when_told_to(self, home: Path, deployment: StoreInUse) -> None:
        deployment.delete_file(deployment.file_ids()[-1])
        assert "freed 1 blobs, 10 bytes" in loramill(home, "gc", "--now").stdout

    def test_waits_for_no_collection_without_end(
        self, home: Path, deployment: StoreInUse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.cli.storage.gc._WAIT_S", 0)
        with deployment.blobs.alone(wait_s=0):
            done = loramill(home, "gc")
        assert done.returncode == 1
        assert "another process is freeing" in done.stderr

    def test_audits_and_repairs(self, home: Path, deployment: StoreInUse) -> None:
        blob = deployment.blobs.put_bytes(b"nobody's")
        young = deployment.blobs.put_bytes(b"of a database that is restored soon")
        kept = deployment.upload(b"somebody's")
        with deployment.database.write() as session:
            session.execute(text("DELETE FROM blobs WHERE sha256 IN (:a, :b)"), {"a": blob.sha256, "b": young.sha256})
            session.execute(text("DELETE FROM blobs WHERE sha256 IN (SELECT sha256 FROM files)"))
        os.utime(path_of(home, blob.sha256), (time.time() - 8 * 86400,) * 2)
        audited = loramill(home, "gc", "--audit")
        assert audited.returncode == 1
        assert "1 of them for over 7 days" in audited.stdout
        assert deployment.blobs.exists(blob.sha256)

        assert loramill(home, "gc", "--audit", "--repair").returncode == 0
        assert not deployment.blobs.exists(blob.sha256)
        assert deployment.blobs.exists(young.sha256)
        assert loramill(home, "gc", "--audit").returncode == 0
        deployment.delete_file(kept)
        assert "freed 1 blobs" in loramill(home, "gc", "--now").stdout
