"""`loramill push` by the real huggingface_hub, against a hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from structlog.testing import capture_logs

from tests.app.cli.command import Done, loramill, loramill_process
from tests.app.conftest import BASE, ApiHarness, serving
from tests.app.models.downloads.published import files_of, publish_adapter
from tests.harness.servers.fake_hub import OWNER, UploadHub

# huggingface_hub uploads by an argument that httpx2 would rather have by another name
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_correct-horse-battery"


class Pushing:
    """A deployment with one model, and the hub that it is pushed to."""

    def __init__(self, harness: ApiHarness, folder: Path, api: str, hub: UploadHub, endpoint: str) -> None:
        self.model = publish_adapter(harness, folder)
        self.home, self.folder = harness.settings.home, folder
        self.api, self.hub, self.endpoint = api, hub, endpoint

    def push(self, repository: str, *options: str, model: str | None = None) -> Done:
        named = ("push", model or self.model, repository, "--url", self.api, "--endpoint", self.endpoint)
        done = loramill(self.home, *named, *options)
        assert TOKEN not in done.stdout + done.stderr
        return done


@pytest.fixture
def pushing(harness: ApiHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pushing]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # both are read when huggingface_hub is imported, which other tests may have done
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub = UploadHub(TOKEN)
    with capture_logs(), serving(harness.app()) as api, serving(hub.app()) as endpoint:
        yield Pushing(harness, tmp_path / "adapter", api, hub, endpoint)
        huggingface_hub.close_session()


def test_a_pushed_repository_is_the_adapter_with_its_card(pushing: Pushing) -> None:
    done = pushing.push("team/desk")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{pushing.model} is in {pushing.endpoint}/team/desk\n"
    repository = pushing.hub.repositories["team/desk"]
    card = repository.files.pop("README.md").decode()
    assert repository.files == files_of(pushing.folder)
    assert repository.messages == [f"Upload {pushing.model}"]
    assert not repository.private
    assert card.startswith("---\nlibrary_name: peft\n")
    assert set(pushing.hub.validated) == {card}


def test_a_second_push_is_a_second_commit(pushing: Pushing) -> None:
    assert [pushing.push("team/desk").returncode for _ in range(2)] == [0, 0]
    assert len(pushing.hub.repositories["team/desk"].messages) == 2


def test_without_an_owner_the_repository_is_the_tokens(pushing: Pushing) -> None:
    assert pushing.push("desk", "--private").returncode == 0
    assert pushing.hub.repositories[f"{OWNER}/desk"].private


def test_what_is_to_be_private_goes_to_no_public_repository(pushing: Pushing) -> None:
    pushing.push("team/desk")
    pushing.hub.repositories["team/desk"].files.clear()
    done = pushing.push("team/desk", "--private")
    assert (done.returncode, done.stdout) == (1, "")
    assert "team/desk is there already and is public; nothing was uploaded" in done.stderr
    assert pushing.hub.repositories["team/desk"].files == {}


def test_without_a_token_nothing_is_asked(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = pushing.push("team/desk")
    assert done.returncode == 1
    assert "HF_TOKEN is not set" in done.stderr
    assert pushing.hub.repositories == {}


def test_what_the_hub_refuses_is_told_without_the_token(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    pushing.hub.refusal = f"the token {TOKEN} may not write"
    done = pushing.push("team/desk")
    assert done.returncode == 1
    assert "team/desk could not be pushed" in done.stderr
    assert "may not write" in done.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    pushing.hub.refusal = None
    assert "401 Unauthorized" in pushing.push("team/desk").stderr


def test_base_models_unknown_names_and_malformed_repositories_are_refused(pushing: Pushing) -> None:
    assert "only fine-tuned models" in pushing.push("team/desk", model=BASE).stderr
    assert "ft:none" in pushing.push("team/desk", model="ft:none").stderr
    assert "a/b/c could not be pushed" in pushing.push("a/b/c").stderr
    assert pushing.hub.repositories == {}


def test_the_hub_of_the_environment_is_pushed_to(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", pushing.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = loramill_process(pushing.home, "push", pushing.model, "team/desk", "--url", pushing.api)
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in pushing.hub.repositories["team/desk"].files
