"""The little of Loramill's HTTP interface that commands speak, over plain HTTP."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2

from core.errors import RangeNotSatisfiable, StartRefused

TIMEOUT_S = 600.0


class Client:
    """A connection to one API. Every call raises StartRefused with the API's own sentence when it is refused."""

    def __init__(self, url: str, api_key: str | None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # no proxy of the environment stands between this machine and itself
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def upload(self, path: Path) -> str:
        """Upload a file of examples and give its id."""
        with path.open("rb") as content:
            answer = self._call(
                "POST", "/v1/files", data={"purpose": "fine-tune"}, files={"file": (path.name, content)}
            )
        return str(answer["id"])

    def create_job(self, body: dict[str, Any]) -> str:
        """Post a fine-tuning job and give its id."""
        return str(self._call("POST", "/v1/fine_tuning/jobs", json=body)["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Give the job as the API shows it."""
        return self._call("GET", f"/v1/fine_tuning/jobs/{job_id}")

    def manifest(self, job_id: str) -> dict[str, Any]:
        """Give the job's birth certificate."""
        return self._call("GET", f"/v1/fine_tuning/jobs/{job_id}/manifest")

    def rerun(self, job_id: str) -> dict[str, Any]:
        """Make the job again, and give the new one as the API shows it."""
        return self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/rerun")

    def card(self, model: str) -> str:
        """Give the model's card, in Markdown."""
        return self._ask("GET", f"/v1/models/{quote(model, safe='')}/card").text

    def cancel(self, job_id: str) -> None:
        """Cancel the job; one that has ended stays as it is."""
        self._call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")

    def latest_metrics(self, job_id: str) -> dict[str, Any] | None:
        """Give the data of the newest step's metrics event; None before the first."""
        events = self._call("GET", f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 20})["data"]
        metrics = (event["data"] for event in events if event["type"] == "metrics")
        return next((data for data in metrics if "total_steps" in data), None)  # evaluations have none

    def complete(self, model: str, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Give the model's greedy completion of each prompt."""
        body = {"model": model, "prompt": list(prompts), "max_tokens": max_tokens, "temperature": 0}
        choices = self._call("POST", "/v1/completions", json=body)["choices"]
        return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]

    def complete_ids(self, model: str, ids: Sequence[int], max_tokens: int) -> str:
        """Give the model's greedy completion of token ids."""
        body = {"model": model, "prompt": list(ids), "max_tokens": max_tokens, "temperature": 0}
        return str(self._call("POST", "/v1/completions", json=body)["choices"][0]["text"])

    def logprobs_of(self, model: str, ids: Sequence[int]) -> list[float]:
        """Give the natural logarithm of each id's probability behind those before it; of the first it is 0."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
        told = self._call("POST", "/v1/completions", json=body)["choices"][0]["logprobs"]["token_logprobs"]
        return [0.0 if logprob is None else float(logprob) for logprob in told]

    def tokens_of(self, base_model: str, prompt: str, completion: str) -> list[dict[str, Any]]:
        """Give the tokens that training has for a prompt and its completion."""
        examples = [{"prompt": prompt, "completion": completion}]
        preview = self._call("POST", "/v1/fine_tuning/preview", json={"model": base_model, "examples": examples})
        return list(preview["examples"][0]["tokens"])

    def base_model_of(self, model: str) -> str:
        """Give the base model of a model; a base model is its own."""
        return str(self._call("GET", f"/v1/models/{quote(model, safe='')}")["parent"] or model)

    def create_evaluation(self, body: dict[str, Any]) -> dict[str, Any]:
        """Post an evaluation and give it."""
        return self._call("POST", "/v1/evaluations", json=body)

    def evaluation(self, evaluation_id: str) -> dict[str, Any]:
        """Give the evaluation as the API shows it."""
        return self._call("GET", f"/v1/evaluations/{evaluation_id}")

    def cancel_evaluation(self, evaluation_id: str) -> dict[str, Any]:
        """Cancel the evaluation, and give it; one that has ended stays as it is."""
        return self._call("POST", f"/v1/evaluations/{evaluation_id}/cancel")

    def estimate_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        """Give what an experiment would do and take."""
        return self._call("POST", "/v1/experiments/estimates", json=body)

    def create_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        """Post an experiment and give it as the API shows it."""
        return self._call("POST", "/v1/experiments", json=body)

    def experiment(self, experiment_id: str) -> dict[str, Any]:
        """Give the experiment as the API shows it."""
        return self._call("GET", f"/v1/experiments/{experiment_id}")

    def experiment_report(self, experiment_id: str) -> dict[str, Any]:
        """Give what an experiment found."""
        return self._call("GET", f"/v1/experiments/{experiment_id}/report")

    def create_export(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have a model exported, and give the export."""
        return self._call("POST", f"/v1/models/{quote(model, safe='')}/exports", json=body)

    def export(self, export_id: str) -> dict[str, Any]:
        """Give the export as the API shows it."""
        return self._call("GET", f"/v1/models/exports/{export_id}")

    def cancel_export(self, export_id: str) -> dict[str, Any]:
        """Cancel the export, and give it; one that has ended stays as it is."""
        return self._call("POST", f"/v1/models/exports/{export_id}/cancel")

    @contextmanager
    def downloading(self, path: str, etag: str | None, start: int) -> Iterator[httpx2.Response]:
        """Begin a download; the caller reads the bytes, in which a connection may break.

        Args:
            path: `model_download`'s or `export_download`'s.
            etag: of what there are ``start`` bytes of already, to go on behind them; None: of nothing.
        """
        headers = {} if etag is None else {"Range": f"bytes={start}-", "If-Range": etag}
        with self._http.stream("GET", path, headers=headers) as response:
            if response.is_error and response.status_code != RangeNotSatisfiable.status:
                response.read()
                raise StartRefused(f"GET {path}: {_message(response)}")
            yield response

    def set_alias(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Let a name stand for a model, and give the alias."""
        return self._call("PUT", _alias(name), json=body)

    def roll_back_alias(self, name: str, reason: str | None) -> dict[str, Any]:
        """Let an alias stand for what it stood for before, and give it."""
        return self._call("POST", f"{_alias(name)}/rollback", params=_reason(reason))

    def alias(self, name: str) -> dict[str, Any]:
        """Give an alias with its newest moves."""
        return self._call("GET", _alias(name))

    def aliases(self) -> list[dict[str, Any]]:
        """Give all aliases, by name."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"has_more": True, "last_id": None}
        while page["has_more"]:
            after = {} if page["last_id"] is None else {"after": page["last_id"]}
            page = self._call("GET", "/v1/models/aliases", params=after)
            found += page["data"]
        return found

    def delete_alias(self, name: str, reason: str | None) -> None:
        """Let a name stand for nothing."""
        self._call("DELETE", _alias(name), params=_reason(reason))

    def import_model(self, files: Sequence[Path], fields: dict[str, str]) -> dict[str, Any]:
        """Send an adapter, as an archive or as its own files, and give the model that became of it."""
        with ExitStack() as opened:
            sent = [("file", (path.name, opened.enter_context(path.open("rb")))) for path in files]
            return self._call("POST", "/v1/models/import", data=fields, files=sent)

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._ask(method, path, **request).json()
        assert isinstance(answer, dict)
        return answer

    def _ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx2.TransportError as error:
            raise StartRefused(f"{method} {path}: the API does not answer ({error})") from error
        if response.is_error:
            raise StartRefused(f"{method} {path}: {_message(response)}")
        return response

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


def model_download(name: str) -> str:
    """Give the path of a model's download."""
    return f"/v1/models/{quote(name, safe='')}/download"


def export_download(export_id: str) -> str:
    """Give the path of an export's download."""
    return f"/v1/models/exports/{export_id}/download"


def _alias(name: str) -> str:
    return f"/v1/models/aliases/{quote(name, safe='@')}"


def _reason(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"reason": reason}


def _message(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):  # not our API's envelope
        return f"status {response.status_code}"
