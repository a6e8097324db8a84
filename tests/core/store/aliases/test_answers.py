from core.store.aliases import answers
from core.store.aliases.answers import AnswerCounts, AnsweredFor
from core.store.db import Database

ONE = AnsweredFor("bot@prod", 1, "ft:a")
OTHERS = (AnsweredFor("bot@prod", 1, "ft:b"), AnsweredFor("bot@prod", 2, "ft:a"), AnsweredFor("bot@test", 1, "ft:a"))


def test_counts_of_all_processes_are_added_up_and_each_model_of_each_move_has_its_own(database: Database) -> None:
    for counted in ({ONE: AnswerCounts(3, 2, 1, 30, 1.5)}, {ONE: AnswerCounts(1, 1, 0, 5, 0.25)}):
        with database.write() as session:
            answers.add(session, counted | dict.fromkeys(OTHERS, AnswerCounts(answers=1)))
    with database.read() as session:
        found = answers.list_counts(session, "bot@prod", [1])
    assert found == {ONE: AnswerCounts(4, 3, 1, 35, 1.75), OTHERS[0]: AnswerCounts(answers=2)}
