"""Aliases on both databases: each move is one change and one line, rollbacks go back step by step, names are kept."""

import threading

import pytest

from core.errors import AliasMoved, AliasNotFound, NothingToRollBack
from core.store.aliases import records
from core.store.aliases.records import Alias, AliasState, Why
from core.store.db import Database
from core.store.tables import AliasMoveRecord

NAME = "support-bot@prod"
A, B, C = (AliasState(model=f"ft:tiny:local:bot:{letter}") for letter in "abc")
WHY = Why("someone", "it is better")


def move(database: Database, to: AliasState, why: Why = WHY, now: int = 10) -> Alias:
    with database.write() as session:
        return records.move(session, NAME, to, why, now)


def roll_back(database: Database) -> AliasState:
    with database.write() as session:
        return records.roll_back(session, NAME, records.find_rollback(session, NAME), WHY, 20).state


def history(database: Database) -> list[AliasMoveRecord]:
    with database.read() as session:
        moves, has_more = records.list_moves(session, NAME, after=None, limit=1000)
        assert not has_more
        return list(moves)


def test_a_move_is_one_line_that_says_who_when_from_to_and_why(database: Database) -> None:
    move(database, A)
    split = AliasState(model=B.model, canary=C.model, percent=10)
    alias = move(database, split, Why("other", None, {"evaluation": "eval-1", "answers": []}), now=11)
    assert alias == Alias(NAME, split, move=2, created_at=10, moved_at=11, answer_key="any")
    with database.read() as session:
        assert records.find(session, NAME) == alias
    second, first = history(database)
    assert (first.action, first.caller, first.before, first.after) == ("set", "someone", None, A.model_dump())
    assert (second.number, second.action, second.caller, second.created_at) == (2, "set", "other", 11)
    assert (second.before, second.after, second.reason) == (A.model_dump(), split.model_dump(), None)
    assert second.gate == {"evaluation": "eval-1", "answers": []}


def test_a_move_to_where_it_stands_leaves_no_line(database: Database) -> None:
    assert move(database, A) == move(database, A, Why("other", "again"), now=99)
    assert len(history(database)) == 1


def test_rollbacks_go_back_one_move_after_the_other(database: Database) -> None:
    for state in (A, B, C):
        move(database, state)
    assert [roll_back(database), roll_back(database)] == [B, A]
    with pytest.raises(NothingToRollBack, match="nothing else"):
        roll_back(database)
    assert [line.action for line in history(database)] == ["rollback", "rollback", "set", "set", "set"]


def test_a_move_after_a_rollback_goes_back_to_where_that_went(database: Database) -> None:
    move(database, A), move(database, B)
    roll_back(database)
    move(database, C)
    assert roll_back(database) == A


def test_a_rollback_of_what_was_moved_meanwhile_does_nothing(database: Database) -> None:
    move(database, A), move(database, B)
    with database.read() as session:
        seen = records.find_rollback(session, NAME)
    move(database, C)
    with pytest.raises(AliasMoved), database.write() as session:
        records.roll_back(session, NAME, seen, WHY, 20)
    assert len(history(database)) == 3


def test_a_deleted_alias_is_gone_and_its_history_goes_on_with_the_name(database: Database) -> None:
    move(database, A), move(database, B)
    with database.write() as session:
        records.delete(session, NAME, WHY, 30)
    with database.read() as session:
        assert records.find(session, NAME) is None
        assert records.list_page(session, after=None, limit=9) == ([], False)
        assert records.find_standing_for(session, {A.model, B.model}) is None
    for change in (
        lambda session: records.delete(session, NAME, WHY, 31),
        lambda session: records.find_rollback(session, NAME),
        lambda session: records.get(session, NAME),
    ):
        with pytest.raises(AliasNotFound), database.write() as session:
            change(session)
    again = move(database, C, now=40)
    assert (again.move, again.created_at) == (4, 40)
    with pytest.raises(NothingToRollBack):
        roll_back(database)
    newest, deletion, *_ = history(database)
    assert (newest.before, deletion.after, deletion.before) == (None, None, B.model_dump())


def test_who_stands_for_a_model_is_found_by_either_side(database: Database) -> None:
    move(database, AliasState(model=A.model, canary=B.model, percent=1))
    with database.read() as session:
        assert records.find_standing_for(session, {A.model}) == (NAME, A.model)
        assert records.find_standing_for(session, {"x", B.model}) == (NAME, B.model)
        assert records.find_standing_for(session, {C.model}) is None


def test_aliases_are_listed_by_name_in_pages(database: Database) -> None:
    with database.write() as session:
        for name in ("c", "a", "b"):
            records.move(session, name, A, WHY, 1)
    with database.read() as session:
        first, has_more = records.list_page(session, after=None, limit=2)
        rest, ends = records.list_page(session, after="b", limit=2)
    assert ([alias.name for alias in first], has_more) == (["a", "b"], True)
    assert ([alias.name for alias in rest], ends) == (["c"], False)


def test_older_moves_follow_the_last_one_seen(database: Database) -> None:
    for state in (A, B, C):
        move(database, state)
    with database.read() as session:
        newest, has_more = records.list_moves(session, NAME, after=None, limit=2)
        oldest, ends = records.list_moves(session, NAME, after=2, limit=2)
    assert ([line.number for line in newest], has_more) == ([3, 2], True)
    assert ([line.number for line in oldest], ends) == ([1], False)


def test_moves_at_the_same_time_come_one_after_the_other(database: Database) -> None:
    """Each line begins where the one before it ended, and the first of them makes the alias."""
    begin = threading.Barrier(4)
    failures: list[BaseException] = []

    def moves(state: AliasState) -> None:
        try:
            begin.wait()
            for number in range(5):
                move(database, state.model_copy(update={"canary": "x", "percent": number + 1}))
        except BaseException as error:
            failures.append(error)

    states = [AliasState(model=f"ft:{number}") for number in range(4)]
    threads = [threading.Thread(target=moves, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    lines = history(database)[::-1]
    assert [line.number for line in lines] == list(range(1, 21))
    assert [line.before for line in lines] == [None, *(line.after for line in lines[:-1])]


def test_a_name_that_is_no_alias_stands_for_itself(database: Database) -> None:
    move(database, AliasState(model=A.model, canary=B.model, percent=99))
    with database.read() as session:
        assert records.name_behind(session, NAME) == A.model
        assert records.name_behind(session, B.model) == B.model
