"""A hub of models for huggingface_hub's own client: makes repositories, and takes commits with files by LFS or without.

Answers what the client asks on the way of an upload, as the public hub does, and remembers it.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

OWNER = "somebody"  # whom the token is of
COMMIT = "c" * 40


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@dataclass
class UploadHub:
    """What the hub has. ``refusal``: what it says to any upload, with status 403; None: it takes it."""

    token: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    refusal: str | None = None
    validated: list[str] = field(default_factory=list)
    _large: dict[str, bytes] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/repos/create", self._create, methods=["POST"]),
                Route("/api/validate-yaml", self._validate, methods=["POST"]),
                Route("/api/models/{repo:path}/preupload/main", self._preupload, methods=["POST"]),
                Route("/api/models/{repo:path}/commit/main", self._commit, methods=["POST"]),
                Route("/api/models/{repo:path}", self._describe),
                Route("/{repo:path}.git/info/lfs/objects/batch", self._batch, methods=["POST"]),
                Route("/large/{digest}", self._take, methods=["PUT"]),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": "Invalid credentials"}, 401)
        return None if self.refusal is None else JSONResponse({"error": self.refusal}, 403)

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        repo = f"{asked['organization'] or OWNER}/{asked['name']}"
        told = {"url": f"{request.base_url}{repo}", "name": repo}
        if refused := self._refused(request):
            return refused
        if repo in self.repositories:
            return JSONResponse(told | {"error": "You already created this model repo"}, 409)
        self.repositories[repo] = Repository(private=asked.get("visibility") == "private")
        return JSONResponse(told)

    async def _describe(self, request: Request) -> Response:
        repo = request.path_params["repo"]
        return JSONResponse({"id": repo, "sha": COMMIT, "private": self.repositories[repo].private})

    async def _validate(self, request: Request) -> Response:
        self.validated.append((await request.json())["content"])
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({"files": [_mode_of(file["path"]) for file in asked["files"]]})

    async def _batch(self, request: Request) -> Response:
        objects = [
            one | {"actions": {"upload": {"href": f"{request.base_url}large/{one['oid']}"}}}
            for one in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _take(self, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["digest"]:
            return Response(status_code=400)
        self._large[request.path_params["digest"]] = content
        return Response()

    async def _commit(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        repo = request.path_params["repo"]
        for line in (await request.body()).splitlines():
            self._apply(self.repositories[repo], json.loads(line))
        url = f"{request.base_url}{repo}/commit/{COMMIT}"
        return JSONResponse({"commitUrl": url, "commitOid": COMMIT})

    def _apply(self, repository: Repository, line: dict[str, Any]) -> None:
        value = line["value"]
        match line["key"]:
            case "header":
                repository.messages.append(value["summary"])
            case "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                repository.files[value["path"]] = self._large[value["oid"]]
            case other:
                raise AssertionError(f"no such line in a commit: {other}")


def _mode_of(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
