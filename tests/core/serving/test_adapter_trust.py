"""One verdict on an adapter from both backends: our engine's verification, and the way to a vLLM server."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engines.vllm.engine import VllmEngine
from app.engines.vllm.residence import name_of
from app.http.error_envelopes import Problem, problem_of
from core.errors import ServiceError
from core.serving.adapter_format import CONFIG, MANIFEST, MANIFEST_LIMIT_BYTES, WEIGHTS, digest_text
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.app.conftest import serving
from tests.harness.models.byte_tokenizer import CHAT_TEMPLATE
from tests.harness.models.tiny_models import write_tiny_llama
from tests.harness.servers.fake_vllm import FakeVllm
from tests.worker.inference.adapters.adapter_files import (
    complete_adapter,
    fit_of,
    load_fp32,
    store_adapter,
    write_adapter,
)
from worker.inference.adapters.verification import open_adapter

BASE = "tiny-llama"
PROMPTS = ("Où est-il?", "1+1= ")
STATUS = {"adapter_invalid": 503, "adapter_mismatch": 409}
Fields = dict[str, Any]


class Backends:
    """Both backends over one base model and one store, in which an adapter lies for a test to spoil copies of."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, base_models=(BASE,))
        folder = write_tiny_llama(self.settings.base_models_folder / BASE)
        self.blobs = LocalBlobStore(self.settings.store_folder)
        self.vllm = FakeVllm(folder)
        self.url = ""
        loaded = load_fp32(folder)
        self.fit = fit_of(loaded, max_rank=64)
        self.folder = home / "adapter"
        write_adapter(folder, self.folder, targets=["q_proj"])
        complete_adapter(
            folder,
            self.folder,
            targets=["q_proj"],
            example_format="messages",
            chat_template_sha256=digest_text(CHAT_TEMPLATE),
            prompts=tuple(_trained(prompt, loaded.tokenizer) for prompt in PROMPTS),
        )
        self.digest = store_adapter(self.folder, self.blobs)

    def stored(self, name: str) -> Path:
        sha256 = self.blobs.put_file(self.folder / name).sha256
        return next(self.settings.store_folder.rglob(sha256))

    def store_changed(self, change: Callable[[Fields], object]) -> str:
        """Store a manifest of the same files that says something else; give its digest."""
        fields = json.loads((self.folder / MANIFEST).read_bytes())
        change(fields)
        return self.blobs.put_bytes(json.dumps(fields).encode()).sha256

    def ours(self, digest: str) -> Problem | None:
        """Give how our engine's refusal of the adapter leaves the API; None where it is read."""
        try:
            open_adapter(digest, self.blobs, self.fit).read()
        except ServiceError as error:
            return problem_of(error)
        return None

    def vllms(self, digest: str) -> Problem | None:
        """Give how the refusal leaves the API where vLLM serves the model; None where the adapter is loaded."""

        async def warm() -> None:
            engine = VllmEngine(BASE, self.url, self.blobs, self.settings)
            try:
                await engine.warm(digest)
            finally:
                await engine.close()

        try:
            asyncio.run(warm())
        except ServiceError as error:
            return problem_of(error)
        return None

    def verdict(self, digest: str) -> Problem | None:
        """Give what both backends say of the adapter, which must be the same; one refused reaches no vLLM server."""
        ours, before = self.ours(digest), list(self.vllm.loras)
        assert self.vllms(digest) == ours
        assert ours is None or list(self.vllm.loras) == before
        return ours


def _trained(prompt: str, tokenizer: TextTokenizer) -> Fields:
    rendered = Renderer(tokenizer).prompt(prompt)
    return {"source": prompt, "text": rendered.text, "ids": rendered.ids}


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    backends = Backends(tmp_path_factory.mktemp("deployment"))
    with serving(backends.vllm.app()) as url:
        backends.url = url
        yield backends


@dataclass(frozen=True)
class Wrong:
    """A manifest that says something else than what is served: the change, and what the refusal says of it."""

    change: Callable[[Fields], object]
    code: str
    says: str


WRONG = {
    "field missing": Wrong(lambda fields: fields.pop("step"), "adapter_invalid", "its manifest is malformed"),
    "another version": Wrong(lambda fields: fields.update(format=2), "adapter_invalid", "its manifest is malformed"),
    "NaN": Wrong(
        lambda fields: fields["prompts"][0].update(source={"variables": {"x": float("nan")}}),
        "adapter_invalid",
        "its manifest is malformed: NaN is no JSON number",
    ),
    "another base model": Wrong(
        lambda fields: fields.update(base_model_fingerprint="1" * 64, base_model="\x1b[2J"),
        "adapter_mismatch",
        r"it was trained on '\x1b[2J' with fingerprint 1111",
    ),
    "malformed prompt format": Wrong(
        lambda fields: fields.update(prompt_format={"prompt": "{{#q}}", "completion": "{{a}}"}),
        "adapter_invalid",
        "its prompt format is malformed",
    ),
    "another tokenizer": Wrong(
        lambda fields: fields.update(tokenizer_sha256="1" * 64),
        "adapter_mismatch",
        "trained with another tokenizer than this engine's",
    ),
    "another chat template": Wrong(
        lambda fields: fields.update(chat_template_sha256="1" * 64),
        "adapter_mismatch",
        "trained with another chat template than this engine's",
    ),
    "another text": Wrong(
        lambda fields: fields["prompts"][0].update(text="Wo ist es?"),
        "adapter_mismatch",
        "its training prompt 1 is not rendered here as it was trained: the texts differ from character 1 on\n"
        "- 'Wo ist es?'\n+ 'Où est-il?'",
    ),
    "other ids": Wrong(
        lambda fields: fields["prompts"][1].update(ids=[*b"1+2= "]),
        "adapter_mismatch",
        "its training prompt 2 is not rendered here as it was trained: the texts are equal, the tokens differ from "
        "token 3 on\n- 50 '2'\n+ 49 '1'",
    ),
    "unrenderable prompt": Wrong(
        lambda fields: fields["prompts"][1].update(source={"variables": {"q": 1}}),
        "adapter_mismatch",
        "its training prompt 2 cannot be rendered here: variables: ",
    ),
    "weights not stored": Wrong(
        lambda fields: fields["files"][WEIGHTS].update(sha256="1" * 64), "adapter_invalid", f"{WEIGHTS} is not stored"
    ),
    "config not stored": Wrong(
        lambda fields: fields["files"][CONFIG].update(sha256="1" * 64), "adapter_invalid", f"{CONFIG} is not stored"
    ),
    "size of weights": Wrong(
        lambda fields: fields["files"][WEIGHTS].update(bytes=1),
        "adapter_invalid",
        "bytes, the manifest says 1",
    ),
    "size of config": Wrong(
        lambda fields: fields["files"][CONFIG].update(bytes=1), "adapter_invalid", "bytes, the manifest says 1"
    ),
    "file not named": Wrong(
        lambda fields: fields["files"].pop(CONFIG), "adapter_invalid", f"its manifest does not name {CONFIG}"
    ),
}


def assert_refused(problem: Problem | None, code: str, says: str) -> None:
    assert problem is not None
    assert (problem.status, problem.code) == (STATUS[code], code)
    assert says in problem.message
    assert problem.headers == {"x-should-retry": "false"}  # and no word of when to try again


def test_a_sound_adapter_is_served_by_both(backends: Backends) -> None:
    assert backends.verdict(backends.digest) is None
    assert name_of(backends.digest) in backends.vllm.loras


@pytest.mark.parametrize("name", WRONG)
def test_whatever_a_manifest_says_wrongly_both_refuse_it_in_the_same_words(backends: Backends, name: str) -> None:
    wrong = WRONG[name]
    assert_refused(backends.verdict(backends.store_changed(wrong.change)), wrong.code, wrong.says)


@given(names=st.sets(st.sampled_from(list(WRONG))))
@settings(max_examples=40)
def test_of_many_things_that_are_wrong_both_name_the_same_first(backends: Backends, names: set[str]) -> None:
    def change(fields: Fields) -> None:
        for name, wrong in WRONG.items():
            if name in names:
                wrong.change(fields)

    problem = backends.verdict(backends.store_changed(change))
    assert (problem is None) == (not names)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "its manifest is malformed"),
        (b"\xff", "its manifest is malformed"),
        (b"[" * 100_000, "its manifest is malformed"),
        (b" " * (MANIFEST_LIMIT_BYTES + 1), f"{MANIFEST} is larger than"),
    ],
)
def test_what_is_no_manifest_is_refused_by_both(backends: Backends, content: bytes, says: str) -> None:
    assert_refused(backends.verdict(backends.blobs.put_bytes(content).sha256), "adapter_invalid", says)


def test_a_key_that_is_there_twice_is_refused_by_both(backends: Backends) -> None:
    twice = (backends.folder / MANIFEST).read_bytes()[:-1] + b',"step":7}'
    problem = backends.verdict(backends.blobs.put_bytes(twice).sha256)
    assert_refused(problem, "adapter_invalid", "its manifest is malformed: the key 'step' is there twice")


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd"])
def test_a_manifest_that_is_not_stored_is_named_by_both(backends: Backends, digest: str) -> None:
    assert_refused(backends.verdict(digest), "adapter_invalid", f"{MANIFEST} is not stored")


@pytest.mark.parametrize("name", [MANIFEST, CONFIG, WEIGHTS])
def test_a_flipped_bit_is_refused_by_both(backends: Backends, name: str) -> None:
    digest = backends.store_changed(lambda fields: fields.update(job_id=f"ftjob-{name}"))  # which nobody placed yet
    path = next(backends.settings.store_folder.rglob(digest)) if name == MANIFEST else backends.stored(name)
    sound = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        assert_refused(backends.verdict(digest), "adapter_invalid", f"{name} is damaged")
    finally:
        path.write_bytes(sound)
