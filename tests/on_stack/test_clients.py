"""The official clients' conformance tests again, on a whole stack: a real engine, and a model trained there."""

from collections.abc import Iterator

import pytest

from tests.app.clients.test_huggingface_client import TestHuggingface  # noqa: F401  (collected here once more)
from tests.app.clients.test_lorax_client import TestLorax  # noqa: F401
from tests.app.clients.test_openai_generation import TestOpenai  # noqa: F401
from tests.app.clients.test_text_generation_client import TestTextGeneration  # noqa: F401
from tests.harness.servers.live_api import LiveApi
from tests.harness.servers.stack import TINY, eventually, running_stack, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def live_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    path = write_examples(tmp_path_factory.mktemp("data") / "train.jsonl")
    with (
        running_stack(tmp_path_factory.mktemp("stack"), LORAMILL_API_KEY=KEY) as stack,
        stack.client(KEY) as client,
    ):
        file = client.files.create(file=path, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=TINY,
            training_file=file.id,
            hyperparameters={"n_epochs": 1, "batch_size": 4},
            extra_body={"lora": {"rank": 4}},
        )
        eventually(
            lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"), "the end of training"
        )
        tuned = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
        assert tuned is not None
        yield LiveApi(url=stack.url, api_key=KEY, base=TINY, tuned=tuned)
