"""Clients that do one random thing after the other: what users do, and what they should not.

Everything random comes from the client's own generator, so a seed gives the same requests again; what meets
what in time is the machine's.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.faults.soup.answers import Answers, is_temporary
from tests.harness.servers.stack import TINY, Stack

_JOBS: Final = "/v1/fine_tuning/jobs"
_PATIENCE_S: Final = 120.0  # in which a request that must be accepted is sent again
_LONG: Final = 7 * 2**20
_MOST_WAITING: Final = 12  # jobs; with more, a slow machine would be training long after the last stroke


@dataclass
class Accepted:
    """What the service has said yes to, and so must not lose. Safe in many threads."""

    jobs: dict[str, str] = field(default_factory=dict)  # Idempotency-Key -> id of the job
    files: list[str] = field(default_factory=list)  # processed, perhaps deleted since
    deleted_models: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class RandomClient:
    """One client of a stack, into whose home it looks for bytes that a living model is made of."""

    def __init__(self, stack: Stack, seed: int, accepted: Accepted, answers: Answers) -> None:
        self._port, self._blobs, self._random = stack.port, stack.home / "store" / "blobs", Random(seed)
        self._accepted, self._answers = accepted, answers
        self._actions: list[tuple[int, Callable[[], None]]] = [
            (6, self._upload),
            (2, self._upload_wrong),
            (2, self._upload_and_go_away),
            (1, self._upload_config_of_a_model_and_delete_it),
            (1, self._create_job),
            (6, self._look_around),
            (2, self._control_a_job),
            (2, self._delete_a_file),
            (1, self._delete_a_model),
            (8, self._generate),
            (2, self._ask_nonsense),
            (1, self._send_long_text),
            (1, self._come_from_elsewhere),
            (1, self._say_nothing),
        ]

    def run(self, stop: threading.Event) -> None:
        """Act until told to stop."""
        weights = [weight for weight, _ in self._actions]
        while not stop.is_set():
            [(_, act)] = self._random.choices(self._actions, weights)
            try:
                act()
            except Exception as error:  # a mistake in the client must not look like silence of the service
                self._answers.complain(f"{act.__name__}: {type(error).__name__}: {error}")
            stop.wait(self._random.expovariate(4))

    # --- requests

    def _ask(
        self, action: str, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=90)
        try:
            with contextlib.closing(connection):
                connection.request(
                    method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
                )
                response = connection.getresponse()
                status, content = response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._answers.note(action, None, b"")
            return None, b""
        self._answers.note(action, status, content)
        return status, content

    def _post(self, action: str, path: str, body: Any, **headers: str) -> tuple[int | None, bytes]:
        return self._ask(action, "POST", path, json.dumps(body).encode(), Content_Type="application/json", **headers)

    def _get(self, action: str, path: str) -> Any:
        status, content = self._ask(action, "GET", path)
        return json.loads(content) if status == 200 else None

    def _send_file(self, action: str, name: str, content: bytes) -> tuple[int | None, bytes]:
        body, content_type = _form(name, content)
        return self._ask(action, "POST", "/v1/files", body, Content_Type=content_type)

    def _pick(self, action: str, path: str) -> dict[str, Any] | None:
        page = self._get(action, path)
        return self._random.choice(page["data"]) if page and page["data"] else None

    # --- what users do

    def _upload(self) -> None:
        count = self._random.randint(2, 40)
        answers = self._random.sample(("ja", "nein", "doch", "vielleicht"), 3)
        lines = [{"prompt": f"Frage {self._random.random()}: ", "completion": answers[i % 3]} for i in range(count)]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        status, answer = self._send_file("upload", "train.jsonl", content)
        if status == 200:
            with self._accepted.lock:
                self._accepted.files.append(json.loads(answer)["id"])

    def _create_job(self) -> None:
        with self._accepted.lock:
            files = list(self._accepted.files)
        newest = self._get("newest jobs", f"{_JOBS}?limit=50") or {"data": []}
        if not files or sum(job["status"] == "queued" for job in newest["data"]) >= _MOST_WAITING:
            return
        body: dict[str, Any] = {
            "model": TINY,
            "training_file": self._random.choice(files[-20:]),
            "hyperparameters": {"n_epochs": self._random.choice([1, 1, 2, 8])},
            "suffix": f"soup-{self._random.randrange(4)}",
        }
        if self._random.random() < 0.3:
            body["validation_file"] = self._random.choice(files[-20:])
        if self._random.random() < 0.2 and (model := self._pick("models", "/v1/models?limit=20")):
            body["continue_from"] = model["id"]
        key = str(uuid.UUID(int=self._random.getrandbits(128)))
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            status, answer = self._post("create", _JOBS, body, Idempotency_Key=key)
            if not is_temporary(status) and status != 409:
                break
            time.sleep(self._random.uniform(0.1, 1))
        if status == 200:
            job_id = json.loads(answer)["id"]
            with self._accepted.lock:
                self._accepted.jobs[key] = job_id
            self._repeat(key, body, job_id)

    def _repeat(self, key: str, body: Any, job_id: str) -> None:
        if self._random.random() < 0.3:
            status, answer = self._post("create again", _JOBS, body, Idempotency_Key=key)
            if status == 200 and json.loads(answer)["id"] != job_id:
                self._answers.complain(f"the key of {job_id} made another job: {json.loads(answer)['id']}")

    def _look_around(self) -> None:
        job = self._pick("jobs", f"{_JOBS}?limit=20")
        if job is None:
            return
        events = self._get("events", f"{_JOBS}/{job['id']}/events?limit=100")
        checkpoints = self._get("checkpoints", f"{_JOBS}/{job['id']}/checkpoints")
        if events is not None and not events["data"] and job["status"] not in ("queued", "running"):
            self._answers.complain(f"{job['id']} is {job['status']} without an event")
        if checkpoints is None and events is None:
            return
        self._get("files", "/v1/files?limit=10")
        self._get("ready", "/readyz")

    def _control_a_job(self) -> None:
        job = self._pick("jobs", f"{_JOBS}?limit=20")
        if job is not None:
            action = self._random.choice(["cancel", "pause", "resume", "resume"])
            self._post(action, f"{_JOBS}/{job['id']}/{action}", None)

    def _delete_a_file(self) -> None:
        with self._accepted.lock:
            files = list(self._accepted.files)
        if files:
            self._ask("delete file", "DELETE", f"/v1/files/{self._random.choice(files)}")

    def _delete_a_model(self) -> None:
        model = self._pick("models", "/v1/models?limit=20")
        if model is not None and model["id"] != TINY:
            status, _ = self._ask("delete model", "DELETE", f"/v1/models/{model['id']}")
            if status == 200:
                with self._accepted.lock:
                    self._accepted.deleted_models.add(model["id"])

    def _generate(self) -> None:
        model = self._pick("models", "/v1/models?limit=20")
        if model is None:
            return
        body = {
            "model": model["id"],
            "prompt": f"Frage {self._random.random()}: ",
            "max_tokens": self._random.randint(1, 40),
            "temperature": self._random.choice([0, 0.7, 1.5]),
            "stream": self._random.random() < 0.5,
        }
        self._post("generate", "/v1/completions", body)

    # --- what they should not

    def _upload_wrong(self) -> None:
        content = self._random.choice(
            [
                b"",
                b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n',
                b'{"prompt": 3}\n',
                b"\xff\xfe\x00" * 100,
                b'{"prompt": "' + b"x" * 200_000 + b'", "completion": "y"}\n',
            ]
        )
        self._send_file(
            "upload wrong", self._random.choice(["a.jsonl", "a.csv", "a.parquet", "../../a.jsonl"]), content
        )

    def _upload_and_go_away(self) -> None:
        body, content_type = _form("a.jsonl", b'{"prompt": "a", "completion": "b"}\n' * 2000)
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 10) as connection:
            connection.sendall(head.encode() + body[: self._random.randrange(len(body))])

    def _upload_config_of_a_model_and_delete_it(self) -> None:
        # equal for all adapters of one shape, so that its blob is shared with living models
        for path in self._blobs.glob("*/*"):
            try:
                content = path.read_bytes() if path.stat().st_size < 10_000 else b""
            except FileNotFoundError:
                continue  # of nobody any more, and collected meanwhile
            if b'"peft_type"' in content:
                status, answer = self._send_file("upload config", "config.jsonl", content)
                if status == 200:
                    self._ask("delete config", "DELETE", f"/v1/files/{json.loads(answer)['id']}")
                return

    def _ask_nonsense(self) -> None:
        body: Any = self._random.choice(
            [
                {"model": TINY, "prompt": "a", "max_tokens": 10**9},
                {"model": "none", "prompt": "a"},
                {"model": TINY, "prompt": ["a", 3]},
                {"model": TINY, "prompt": "a", "stop": ["x"] * 1000},
                {"model": TINY, "prompt": "a", "temperature": -1, "n": 10**6},
                {"model": TINY, "prompt": "a", "unheard_of": True},
                {"model": TINY, "prompt": "\ud800"},
                [],
                None,
            ]
        )
        self._post("nonsense", self._random.choice(["/v1/completions", "/generate", _JOBS, "/v1/render"]), body)

    def _send_long_text(self) -> None:
        text = self._random.choice(["a", "a b ", "\n", "🙂", "Wort "])
        long = text * (_LONG // len(text.encode()))
        path = self._random.choice(["/v1/completions", "/tokenize", "/generate", "/v1/render"])
        body = {"inputs": long} if path in ("/generate", "/tokenize") else {"model": TINY, "prompt": long}
        status, _ = self._post("long text", path, body)
        if status == 200 and path != "/v1/render":
            self._answers.complain(f"{path} took 7 MB")

    def _come_from_elsewhere(self) -> None:
        elsewhere = self._random.choice([{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
        status, _ = self._post("from elsewhere", f"{_JOBS}/ftjob-x/cancel", None, **elsewhere)
        if status is not None and status not in (403, 421, 429, 503):
            self._answers.complain(f"a request with {elsewhere} got {status}")

    def _say_nothing(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as silent:
            for _ in range(20):
                silent.enter_context(socket.create_connection(("127.0.0.1", self._port), 5))
            time.sleep(self._random.uniform(0, 2))


def _form(name: str, content: bytes) -> tuple[bytes, str]:
    head = '--b0undary\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b0undary\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--b0undary--\r\n", "multipart/form-data; boundary=b0undary"
