"""Pages of an evaluation's rows, in the file's order or by scores."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import ScoredRow
from core.store import evaluations
from tests.app.conftest import BASE, ApiHarness
from tests.app.evaluations.asking import PATH, ask
from tests.harness.models.published_model import publish


class TestRows:
    @pytest.fixture
    def evaluation(self, client: TestClient, harness: ApiHarness, file_id: str) -> str:
        """Give an evaluation of 4 rows and two models, of which one row has not been asked yet."""
        with harness.database.write() as session:
            publish(session, "ft:other")
        told = ask(client, file=file_id, max_rows=4, models=[BASE, "ft:other"], metrics=["exact_match", "chrf"])
        evaluation = str(told.json()["id"])
        rows = [EvaluationRow(n + 1, f"{n:016x}", f"p{n}", f" c{n}", (1,), (2,), (True,)) for n in range(4)]
        scores: dict[int, list[float | None]] = {0: [0.1, 0.9, 0.5, 0.5], 1: [0.2, 0.3, None]}
        with harness.database.write() as session:
            evaluations.add_examples(session, evaluation, dict(enumerate(rows)))
            for index, found in scores.items():
                scored = [
                    ScoredRow(
                        model_index=index, row=row, answer=f"a{row}", stopped=True, tokens=2, scores={"chrf": score}
                    )
                    for row, score in enumerate(found)
                ]
                evaluations.add_scored(session, evaluation, scored)
        return evaluation

    def rows(self, client: TestClient, evaluation: str, **query: Any) -> list[int]:
        response = client.get(f"{PATH}/{evaluation}/rows", params=query)
        assert response.status_code == 200, response.json()
        return [row["row"] for row in response.json()["data"]]

    def test_are_given_with_all_answers_so_far(self, client: TestClient, evaluation: str) -> None:
        data = client.get(f"{PATH}/{evaluation}/rows").json()["data"]
        assert [row["row"] for row in data] == [0, 1, 2, 3]
        answer = {"answer": "a0", "stopped": True, "tokens": 2}
        assert data[0] == {
            "row": 0,
            "line": 1,
            "cluster": "0" * 16,
            "prompt": "p0",
            "reference": " c0",
            "answers": [
                {"model": BASE, **answer, "scores": {"chrf": 0.1}},
                {"model": "ft:other", **answer, "scores": {"chrf": 0.2}},
            ],
        }
        assert len(data[3]["answers"]) == 1

    def test_are_sorted_by_a_models_score_or_by_a_difference(self, client: TestClient, evaluation: str) -> None:
        assert self.rows(client, evaluation, sort="chrf", model=BASE) == [0, 2, 3, 1]
        assert self.rows(client, evaluation, sort="chrf", model=BASE, order="desc") == [1, 3, 2, 0]
        assert self.rows(client, evaluation, sort="chrf") == [0, 1, 2, 3]
        assert self.rows(client, evaluation, sort="chrf", model="ft:other", against=BASE) == [1, 0, 2, 3]
        assert self.rows(client, evaluation, order="desc") == [3, 2, 1, 0]

    def test_are_paged(self, client: TestClient, evaluation: str) -> None:
        query: dict[str, Any] = {"sort": "chrf", "model": BASE, "limit": 3}
        first = client.get(f"{PATH}/{evaluation}/rows", params=query).json()
        assert ([row["row"] for row in first["data"]], first["has_more"]) == ([0, 2, 3], True)
        second = client.get(f"{PATH}/{evaluation}/rows", params=query | {"after": 3}).json()
        assert ([row["row"] for row in second["data"]], second["has_more"]) == ([1], False)

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ({"sort": "rouge_l"}, "sort"),
            ({"model": BASE}, "model"),
            ({"sort": "chrf", "model": "x"}, "model"),
            ({"sort": "chrf", "against": "x"}, "against"),
            ({"after": 9}, "after"),
            ({"by": "x"}, "by"),
        ],
    )
    def test_of_a_query_that_does_not_fit_are_refused(
        self, client: TestClient, evaluation: str, query: dict[str, Any], param: str
    ) -> None:
        response = client.get(f"{PATH}/{evaluation}/rows", params=query)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)

    def test_of_an_evaluation_that_waits_are_none_yet_and_no_page_follows(
        self, client: TestClient, file_id: str
    ) -> None:
        waiting = ask(client, file=file_id).json()["id"]
        for query in ({}, {"sort": "chrf"}):
            told = client.get(f"{PATH}/{waiting}/rows", params=query).json()
            assert (told["data"], told["has_more"]) == ([], False)
