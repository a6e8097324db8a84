import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import FileInUse, FileNotStored
from core.store import files
from core.store.db import Database
from core.store.queue import control
from tests.core.store.conftest import MakeFile, MakeJob


def test_a_record_comes_back_as_it_was_made(database: Database, make_file: MakeFile) -> None:
    made = make_file(content=b"abc")
    with database.read() as session:
        file = files.get(session, made.id)
    assert file.id.startswith("file-")
    assert (file.filename, file.bytes, file.status, file.columns) == ("examples.jsonl", 3, "processed", None)


def test_what_is_not_there_is_not_found(database: Database) -> None:
    with pytest.raises(FileNotStored), database.read() as session:
        files.get(session, "file-none")
    with pytest.raises(FileNotStored), database.write() as session:
        files.delete(session, "file-none")


def test_pages_walk_in_either_order(database: Database, make_file: MakeFile) -> None:
    made = [make_file().id for _ in range(3)]
    with database.read() as session:
        newest, more = files.list_page(session, after=None, limit=2)
        rest, more_still = files.list_page(session, after=newest[-1].id, limit=2)
        oldest, _ = files.list_page(session, after=made[0], limit=2, order="asc")
    assert [file.id for file in (*newest, *rest)] == made[::-1]
    assert (more, more_still) == (True, False)
    assert [file.id for file in oldest] == made[1:]


def test_a_page_goes_on_after_a_file_that_was_deleted(database: Database, make_file: MakeFile) -> None:
    first, second = make_file().id, make_file().id
    with database.write() as session:
        files.delete(session, second)
        page, _ = files.list_page(session, after=second, limit=2)
    assert [file.id for file in page] == [first]


def test_a_purpose_narrows_the_list(database: Database, make_file: MakeFile) -> None:
    make_file()
    batch = make_file(purpose="batch")
    with database.read() as session:
        page, _ = files.list_page(session, after=None, limit=10, purpose="batch")
    assert [file.id for file in page] == [batch.id]


def test_a_file_in_use_stays_until_its_job_ends(database: Database, make_file: MakeFile, make_job: MakeJob) -> None:
    file = make_file()
    job = make_job(file=file)
    with pytest.raises(FileInUse, match=job.id), database.write() as session:
        files.delete(session, file.id)
    with database.write() as session:
        control.cancel(session, job.id, now=150)
        files.delete(session, file.id)
    with pytest.raises(FileNotStored), database.read() as session:
        files.get(session, file.id)


def test_a_job_and_a_deletion_at_once_cannot_both_have_the_file(
    database: Database, make_file: MakeFile, make_job: MakeJob
) -> None:
    for _ in range(5):
        file = make_file()
        together = threading.Barrier(2)

        def create(file=file, together=together) -> bool:  # type: ignore[no-untyped-def]
            together.wait()
            try:
                make_job(file=file)
            except FileNotStored:
                return False
            return True

        def delete(file=file, together=together) -> bool:  # type: ignore[no-untyped-def]
            together.wait()
            try:
                with database.write() as session:
                    files.delete(session, file.id)
            except FileInUse:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            outcomes = [pool.submit(create), pool.submit(delete)]
        assert sorted(outcome.result() for outcome in outcomes) == [False, True]
