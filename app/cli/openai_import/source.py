"""Where a fine-tuning job of OpenAI's and its files are read: an account, by the openai client, or a folder of exports.

What they hold is ``plan``'s and ``rows``' matter.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from core.errors import StartRefused

if TYPE_CHECKING:
    from openai import OpenAI

_OBJECT: Final = "fine_tuning.job"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class JobSource(Protocol):
    """Gives a job and its files. Both raise StartRefused where it has none, or cannot be asked."""

    def job(self) -> dict[str, Any]:
        """Give the job as OpenAI's API shows it."""
        ...

    def fetch(self, file_id: str, target: Path) -> None:
        """Write a file's content to a path."""
        ...


class Account:
    """A job of an account, asked for with the key that the openai client finds, OPENAI_API_KEY's as a rule."""

    def __init__(self, job_id: str, base_url: str | None) -> None:
        """Take a job. ``base_url`` None: of the API that OPENAI_BASE_URL names, or OpenAI's own."""
        self._job_id = job_id
        self._base_url = base_url

    def job(self) -> dict[str, Any]:
        with self._asking(f"job {self._job_id}") as client:
            return client.fine_tuning.jobs.retrieve(self._job_id).to_dict()

    def fetch(self, file_id: str, target: Path) -> None:
        with (
            self._asking(f"file {file_id}") as client,
            client.files.with_streaming_response.content(file_id) as response,
        ):
            response.stream_to_file(target)

    @contextmanager
    def _asking(self, what: str) -> Iterator["OpenAI"]:
        """Give a client for as long as the block lasts.

        Raises:
            StartRefused: it is not installed, finds no key, or the account refuses or does not answer.
        """
        try:
            import openai
        except ModuleNotFoundError as error:
            raise StartRefused(
                "reading an account needs OpenAI's client (pip install 'loramill[openai]'); exports in a folder, "
                "with --from, do not"
            ) from error
        key = ""
        try:
            with openai.OpenAI(base_url=self._base_url) as client:
                key = client.api_key
                yield client
        except openai.OpenAIError as error:
            told = str(error).replace(key, "…") if key else str(error)
            raise StartRefused(f"{what} cannot be read from the account: {told}") from None


class ExportFolder:
    """Exports: the job as its JSON, under any name, and each file's content by its id, as ``file-abc.jsonl``."""

    def __init__(self, folder: Path, job_id: str | None) -> None:
        """Take a folder. ``job_id`` None: the only job that is there."""
        self._folder = folder
        self._job_id = job_id

    def job(self) -> dict[str, Any]:
        found = [job for job in map(_read_job, sorted(self._folder.glob("*.json"))) if job is not None]
        found = [job for job in found if self._job_id in (None, job.get("id"))]
        if len(found) != 1:
            named = "" if self._job_id is None else f" {self._job_id}"
            ids = ", ".join(str(job.get("id")) for job in found)
            raise StartRefused(
                f"{self._folder} has " + (f"several jobs: {ids}; name one" if found else f"no job{named}")
            )
        return found[0]

    def fetch(self, file_id: str, target: Path) -> None:
        found = sorted(self._folder.glob(f"{file_id}.*")) if _ID.fullmatch(file_id) else []
        contents = [path for path in found if path.suffix != ".json"]
        if len(contents) != 1:
            several = ", ".join(path.name for path in contents)
            told = f"several files of one id: {several}" if several else f"no file {file_id}.jsonl"
            raise StartRefused(f"{self._folder} has {told}")
        shutil.copyfile(contents[0], target)


def _read_job(path: Path) -> dict[str, Any] | None:
    """Give the job that a file holds; None: it holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise StartRefused(f"{path} is no JSON: {error}") from error
    return found if isinstance(found, dict) and found.get("object") == _OBJECT else None
