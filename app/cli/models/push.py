"""`loramill push`: uploads a fine-tuned model to a hub of models, as a repository of PEFT's with its card.

The upload itself is huggingface_hub's. A token is taken from HF_TOKEN alone, so that nothing is published by the way,
and appears in no output.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer

from app.cli.client import Client
from app.cli.models.export_model import fetch_model
from core.errors import StartRefused

TOKEN: Final = "HF_TOKEN"


def push(client: Client, model: str, repository: str, *, private: bool, endpoint: str | None) -> None:
    """Make a repository's files those of the model: what a download has, verified as one.

    Args:
        repository: as "owner/name"; without an owner it is the token's.
        private: where the repository is made; one that is there must be private then.
        endpoint: address of the hub; None: HF_ENDPOINT's, or the public one.

    Raises:
        StartRefused: there is no token, the API or the hub refuses, or one of them cannot be reached.
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise StartRefused(f"{TOKEN} is not set: a push needs a token of the hub that may write there")
    from huggingface_hub import HfApi  # takes a second

    hub = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory(prefix="loramill-push-") as folder:
        content = Path(folder) / "model"
        fetch_model(client, model, content)
        with _refused_by_the_hub(repository, token):
            # None leaves it to the owner's own settings, where False would make it public
            made = hub.create_repo(repository, private=private or None, exist_ok=True)
            if private and not hub.model_info(made.repo_id).private:
                raise StartRefused(f"{made.repo_id} is there already and is public; nothing was uploaded")
            commit = hub.upload_folder(repo_id=made.repo_id, folder_path=content, commit_message=f"Upload {model}")
    typer.echo(f"{model} is in {commit.repo_url}")


@contextmanager
def _refused_by_the_hub(repository: str, token: str) -> Iterator[None]:
    """Make what huggingface_hub raises one sentence without the token.

    Raises:
        StartRefused: it raised something.
    """
    import httpx2

    try:
        yield
    # what the hub and the network refuse, names that are no repository's, and what wraps one of them
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        wrapped = error.__cause__ if isinstance(error, RuntimeError) else None
        told = " ".join(str(wrapped or error).split()).replace(token, "…")
        raise StartRefused(f"{repository} could not be pushed: {told}") from None
