"""What several processes counted is added up, whether or not it is written, and nothing is lost or counted twice."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engines.counted import CountedAnswer
from app.http.alias_answers import AliasAnswers
from core.serving.generation import FinishReason
from core.store.aliases.answers import AnswerCounts, AnsweredFor
from core.store.db import Database, sqlite_file
from tests.harness.migrated import write_migrated

KEY = AnsweredFor("bot@prod", 1, "ft:a")
ENDED = CountedAnswer(FinishReason.END, 5, 0.5)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'loramill.db'}"
    write_migrated(sqlite_file(url))
    database = Database(url)
    yield database
    database.dispose()


def sums(answers: AliasAnswers, database: Database) -> AnswerCounts:
    with database.read() as session:
        return answers.sums(session, KEY.alias, [KEY.move]).get(KEY, AnswerCounts())


def test_processes_see_what_is_written_and_each_its_own_at_once(database: Database) -> None:
    one, other = AliasAnswers(database), AliasAnswers(database)
    one.count(KEY, ENDED)
    one.count(KEY, CountedAnswer(FinishReason.LENGTH, 3, 0.25))
    other.count(KEY, CountedAnswer(None, 1, 9.0))
    assert sums(one, database) == AnswerCounts(2, 1, 0, 8, 0.75)
    assert sums(other, database) == AnswerCounts(failed=1)
    for each in (one, other, one):
        each.write()
    for each in (one, other):
        assert sums(each, database) == AnswerCounts(2, 1, 1, 8, 0.75)


def test_what_the_database_does_not_take_is_kept_for_the_next_time(database: Database, tmp_path: Path) -> None:
    answers = AliasAnswers(database)
    answers.count(KEY, ENDED)
    file = tmp_path / "loramill.db"
    database.dispose()
    file.unlink()
    file.mkdir()  # which no database can be opened in
    answers.write()
    file.rmdir()
    write_migrated(file)
    answers.count(KEY, ENDED)
    answers.write()
    assert sums(answers, database) == AnswerCounts(2, 2, 0, 10, 1.0)


def test_what_is_counted_at_the_end_is_written(database: Database) -> None:
    answers, stop = AliasAnswers(database), threading.Event()
    writing = threading.Thread(target=answers.run, args=(stop,))
    writing.start()
    answers.count(KEY, ENDED)
    stop.set()
    writing.join()
    assert sums(AliasAnswers(database), database) == AnswerCounts(1, 1, 0, 5, 0.5)


def test_readers_miss_and_double_nothing_while_it_is_written(database: Database) -> None:
    answers, stop = AliasAnswers(database), threading.Event()

    def write() -> None:
        while not stop.is_set():
            answers.write()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(1, 51):
            answers.count(KEY, ENDED)
            assert sums(answers, database).answers == number
    finally:
        stop.set()
        writing.join()
