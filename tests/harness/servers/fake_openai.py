"""An OpenAI account for the real client: a fine-tuning job and its files, in the shapes that the public API answers."""

from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

JOB: dict[str, Any] = {  # as it was answered, but for names
    "object": "fine_tuning.job",
    "id": "ftjob-theirs",
    "model": "gpt-4o-mini-2024-07-18",
    "created_at": 1721764867,
    "finished_at": 1721765867,
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:org:desk:9abc",
    "organization_id": "org-123",
    "result_files": ["file-result"],
    "status": "succeeded",
    "validation_file": None,
    "training_file": "file-train",
    "hyperparameters": {"n_epochs": 4, "batch_size": 1, "learning_rate_multiplier": 1.8},
    "trained_tokens": 5768,
    "error": {},
    "user_provided_suffix": "desk",
    "seed": 683058546,
    "estimated_finish": None,
    "integrations": [],
    "metadata": None,
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 1, "learning_rate_multiplier": 1.8}},
    },
}


@dataclass
class FakeOpenAI:
    """What the account has, by id."""

    key: str
    jobs: dict[str, dict[str, Any]] = field(default_factory=lambda: {str(JOB["id"]): JOB})
    files: dict[str, bytes] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/fine_tuning/jobs/{id}", self._job),
                Route("/v1/files/{id}/content", self._content),
            ]
        )

    async def _job(self, request: Request) -> Response:
        return self._refused(request, self.jobs) or JSONResponse(self.jobs[request.path_params["id"]])

    async def _content(self, request: Request) -> Response:
        return self._refused(request, self.files) or Response(self.files[request.path_params["id"]])

    def _refused(self, request: Request, known: dict[str, Any]) -> Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != self.key:
            return _error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        wanted = request.path_params["id"]
        return None if wanted in known else _error(404, f"No such object: {wanted}", None)


def _error(status: int, message: str, code: str | None) -> Response:
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": told}, status)
