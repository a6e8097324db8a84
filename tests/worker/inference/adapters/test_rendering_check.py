"""Adapters from the real trainer in the real engine: fed what they were trained on, or refused with the difference."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.errors import AdapterInvalid, AdapterMismatch, InvalidParameter, PromptTooLong
from core.serving.adapter_format import MANIFEST, TrainedPrompt
from core.serving.generation import Conversation, PromptSource, Rendering, RenderRequest, Turn, Variables
from core.serving.rendering_check import find_mismatch
from core.store.blobs import LocalBlobStore
from core.text.render_settings import PromptFormat
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.tiny_models import CONTEXT_TOKENS
from tests.worker.inference.engine_harness import EngineHarness, EngineOutput, complete, make_request, store_adapter
from tests.worker.training.run_folders import Line, render, train, write_run
from worker.inference.engine import LocalEngine
from worker.trainer_process.run_folder import ADAPTER

SEED_FORMAT = PromptFormat(
    prompt="Question: {{question}}\nReferences:\n{{#references}}- {{title}}: {{text}}\n{{/references}}Answer:",
    completion=" {{answer}}",
)
QUESTIONS: list[Line] = [
    {
        "question": f"Où est n° {number}?",
        "references": [{"title": f"R{place}", "text": f"at {number} & <{place}>"} for place in range(number % 3)],
        "answer": f"secret {number}",
    }
    for number in range(6)
]
CHATS: list[Line] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f" {number} and one? "},
            {"role": "assistant", "content": f"{number + 1}"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    for number in range(6)
]
PAIRS: list[Line] = [{"prompt": f"{number}+1= ", "completion": f"{number + 1}"} for number in range(6)]


@dataclass(frozen=True)
class RenderingCase:
    """Training data of one format, and how a client asks the first example's question."""

    lines: list[Line]
    prompt_format: PromptFormat | None
    asked: Callable[[Line], PromptSource]


def _first_turns(line: Line) -> Conversation:
    return Conversation(messages=tuple(Turn(**turn) for turn in line["messages"][:2]))


CASES = {
    "columns": RenderingCase(
        QUESTIONS,
        SEED_FORMAT,
        lambda line: Variables(variables={name: line[name] for name in ("question", "references")}),
    ),
    "messages": RenderingCase(CHATS, None, _first_turns),
    "prompt_completion": RenderingCase(PAIRS, None, lambda line: str(line["prompt"])),
}


class Trained:
    """An adapter that the trainer made of a case, over the tiny Llama."""

    def __init__(self, case: RenderingCase, base: Path, home: Path) -> None:
        self.case = case
        self.base = base
        run_folder = write_run(
            home / "run", base, case.lines, validation=case.lines[:1], n_epochs=1, prompt_format=case.prompt_format
        )
        train(run_folder)
        self.folder = run_folder / ADAPTER
        self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text())
        (home / "data").mkdir()
        self.data = render(home / "data", base, case.lines, validation=[], prompt_format=case.prompt_format)

    def trained_prefix(self, index: int) -> tuple[int, ...]:
        """Give the ids that stand before the first token that this example trains."""
        example = self.data.training[index]
        return tuple(example.ids_T[: int(example.is_completion_T.argmax())].tolist())


@pytest.fixture(scope="module")
def trained_of(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    made: dict[str, Trained] = {}

    def trained(name: str) -> Trained:
        if name not in made:
            made[name] = Trained(CASES[name], tiny_llama_folder, tmp_path_factory.mktemp(name))
        return made[name]

    return trained


@pytest.fixture(params=CASES)
def trained(request: pytest.FixtureRequest, trained_of: Callable[[str], Trained]) -> Trained:
    return trained_of(request.param)


@pytest.fixture
def base(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the base model that a test may change; what was recorded at its import stays as it was."""
    return Path(shutil.copytree(tiny_llama_folder, tmp_path / "base"))


def load(adapter: Trained, base: Path, home: Path, **changes: Any) -> None:
    """Load an adapter into an engine over ``base``, with changes to what its manifest says."""
    harness = EngineHarness(base, home)
    digest = store_changed(adapter, harness.blobs, **changes)
    harness.run(lambda engine: engine.warm(digest))


def store_changed(adapter: Trained, blobs: LocalBlobStore, **changes: Any) -> str:
    digest = store_adapter(adapter.folder, blobs)
    if not changes:
        return digest
    return blobs.put_bytes(json.dumps(adapter.manifest | changes).encode()).sha256


def refusal(
    adapter: Trained,
    base: Path,
    home: Path,
    *,
    kind: type[AdapterInvalid | AdapterMismatch] = AdapterMismatch,
    **changes: Any,
) -> str:
    with pytest.raises(kind) as caught:
        load(adapter, base, home, **changes)
    return str(caught.value.args[1])


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


class TestServing:
    def test_each_prompt_is_fed_as_it_was_trained(self, trained: Trained, tmp_path: Path) -> None:
        harness = EngineHarness(trained.base, tmp_path)
        digest = store_adapter(trained.folder, harness.blobs)
        prompts = [trained.case.asked(line) for line in trained.case.lines]

        async def work(engine: LocalEngine) -> list[Rendering]:
            return [await engine.render(RenderRequest(prompt=prompt, adapter=digest)) for prompt in prompts]

        renderings = harness.run(work)
        assert [rendering.ids for rendering in renderings] == [
            trained.trained_prefix(index) for index in range(len(prompts))
        ]

    def test_a_prompt_is_answered_as_its_ids_are(self, trained: Trained, tmp_path: Path) -> None:
        harness = EngineHarness(trained.base, tmp_path)
        digest = store_adapter(trained.folder, harness.blobs)
        ids = trained.trained_prefix(2)
        as_ids = make_request(ids, adapter=digest, max_tokens=8)
        asked = as_ids.model_copy(update={"id": "asked", "prompt": trained.case.asked(trained.case.lines[2])})
        expected, answer = harness.complete(as_ids, asked)
        assert answer.usage.prompt_tokens == len(ids)
        assert answer.ids == expected.ids

    def test_whole_rows_can_be_sent(self, trained_of: Callable[[str], Trained], tmp_path: Path) -> None:
        trained = trained_of("columns")
        rendering = _render(trained, tmp_path, Variables(variables=QUESTIONS[1]))
        assert rendering.text == "Question: Où est n° 1?\nReferences:\n- R0: at 1 & <0>\nAnswer:"

    def test_a_missing_column_is_named(self, trained_of: Callable[[str], Trained], tmp_path: Path) -> None:
        with pytest.raises(InvalidParameter, match='no column "references"') as caught:
            _render(trained_of("columns"), tmp_path, Variables(variables={"question": "?"}))
        assert caught.value.param == "variables"

    def test_variables_need_a_prompt_format(self, trained_of: Callable[[str], Trained], tmp_path: Path) -> None:
        with pytest.raises(InvalidParameter, match="no prompt format"):
            _render(trained_of("messages"), tmp_path, Variables(variables={"question": "?"}))

    def test_what_exceeds_the_context_is_refused(self, trained_of: Callable[[str], Trained], tmp_path: Path) -> None:
        with pytest.raises(PromptTooLong):
            _render(trained_of("messages"), tmp_path, "x" * CONTEXT_TOKENS)

    def test_rendering_lets_go_of_the_adapter_whether_or_not_it_succeeds(
        self, trained_of: Callable[[str], Trained], tmp_path: Path
    ) -> None:
        harness = EngineHarness(trained_of("columns").base, tmp_path)
        first, second = (store_adapter(trained_of(name).folder, harness.blobs) for name in ("columns", "messages"))
        nothing = Variables(variables={})
        bad = make_request("", adapter=first).model_copy(update={"prompt": nothing})

        async def work(engine: LocalEngine) -> EngineOutput:
            await engine.render(RenderRequest(prompt="x", adapter=first))
            with pytest.raises(InvalidParameter):
                await complete(engine, bad)
            with pytest.raises(InvalidParameter):
                await engine.render(RenderRequest(prompt=nothing, adapter=first))
            return await asyncio.wait_for(complete(engine, make_request("x", adapter=second, max_tokens=1)), 60)

        one = _resident_bytes(harness, first)
        assert harness.run(work, adapter_cache_bytes=one + one // 2).usage.completion_tokens == 1


class TestManifest:
    def test_keeps_prompts_as_they_were_asked_and_fed(self, trained: Trained) -> None:
        kept = [TrainedPrompt.model_validate(prompt) for prompt in trained.manifest["prompts"]]
        assert [prompt.source for prompt in kept] == [trained.case.asked(line) for line in trained.case.lines[:3]]
        assert [prompt.ids for prompt in kept] == [trained.trained_prefix(index) for index in range(3)]
        tokenizer = TextTokenizer.from_folder(trained.base)
        assert [prompt.text for prompt in kept] == [tokenizer.decode(prompt.ids, skip_special=False) for prompt in kept]

    def test_names_the_shape_of_the_examples(self, trained: Trained) -> None:
        assert CASES[trained.manifest["example_format"]] is trained.case

    def test_keeps_no_answer_column(self, trained_of: Callable[[str], Trained]) -> None:
        assert "secret" not in json.dumps(trained_of("columns").manifest)


class TestMismatch:
    def test_a_changed_prompt_format_is_refused(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        changed = {"prompt": SEED_FORMAT.prompt.replace("References:", "Sources:"), "completion": "{{answer}}"}
        reason = refusal(trained_of("columns"), base, tmp_path, prompt_format=changed)
        assert reason == (
            "its training prompt 1 is not rendered here as it was trained: the texts differ from character 24 on\n"
            "- 'Question: Où est n° 0?\\nReferences:\\nAnswer:'\n"
            "+ 'Question: Où est n° 0?\\nSources:\\nAnswer:'"
        )

    def test_a_prompt_format_that_wants_another_column_is_refused(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        changed = {"prompt": "{{query}}", "completion": "{{answer}}"}
        reason = refusal(trained_of("columns"), base, tmp_path, prompt_format=changed)
        assert 'cannot be rendered here: variables: there is no column "query"' in reason

    def test_a_malformed_prompt_format_is_refused(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        changed = {"prompt": "{{#query}}", "completion": "{{answer}}"}
        reason = refusal(trained_of("columns"), base, tmp_path, kind=AdapterInvalid, prompt_format=changed)
        assert "its prompt format is malformed" in reason

    def test_a_changed_chat_template_is_refused_for_chat(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        edit_json(
            base / "tokenizer_config.json",
            lambda config: config.update(chat_template=config["chat_template"].replace("|im_end|>\n", "|im_end|>")),
        )
        reason = refusal(trained_of("messages"), base, tmp_path)
        assert reason.startswith("it was trained with another chat template than this engine's; its training prompt 1")
        removed, added = reason.splitlines()[1:]
        assert removed.startswith("- …")
        assert added.startswith("+ …")
        assert "Be brief.<|im_end|>\\n<|im_start|>user" in removed
        assert "Be brief.<|im_end|><|im_start|>user" in added

    def test_a_chat_template_that_differs_elsewhere_is_refused_for_chat(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        edit_json(
            base / "tokenizer_config.json",
            lambda config: config.update(chat_template=config["chat_template"] + "{% if tools %}tools{% endif %}"),
        )
        reason = refusal(trained_of("messages"), base, tmp_path)
        assert reason == "it was trained with another chat template than this engine's"

    def test_a_chat_template_that_is_gone_is_refused_for_chat(
        self, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        edit_json(base / "tokenizer_config.json", lambda config: config.pop("chat_template"))
        assert "another chat template" in refusal(trained_of("messages"), base, tmp_path)

    @pytest.mark.parametrize("name", ["columns", "prompt_completion"])
    def test_a_changed_chat_template_does_not_concern_other_examples(
        self, name: str, trained_of: Callable[[str], Trained], base: Path, tmp_path: Path
    ) -> None:
        edit_json(base / "tokenizer_config.json", lambda config: config.update(chat_template="{{ messages }}"))
        load(trained_of(name), base, tmp_path)

    def test_a_changed_tokenizer_is_refused(self, trained: Trained, base: Path, tmp_path: Path) -> None:
        ids = trained.manifest["prompts"][0]["ids"]
        moved = max(token_id for token_id in ids if token_id < ord("~"))

        def exchange(tokenizer: dict[str, Any]) -> None:
            tokenizer["model"]["vocab"].update({chr(moved): ord("~"), "~": moved})

        edit_json(base / "tokenizer.json", exchange)
        assert refusal(trained, base, tmp_path) == (
            "it was trained with another tokenizer than this engine's; its training prompt 1 is not rendered here as "
            f"it was trained: the texts are equal, the tokens differ from token {ids.index(moved) + 1} on\n"
            f"- {moved} '~'\n+ 126 {chr(moved)!r}"
        )

    def test_a_tokenizer_that_begins_texts_otherwise_is_refused(
        self, trained: Trained, base: Path, tmp_path: Path
    ) -> None:
        edit_json(
            base / "tokenizer_config.json", lambda config: config.update(bos_token="<|endoftext|>", add_bos_token=True)
        )
        reason = refusal(trained, base, tmp_path)
        assert "differ from character 1 on\n- '" in reason or "differ from character 3 on\n- '" in reason
        assert "\n+ '<|endoftext|>" in reason

    def test_altered_ids_are_refused(self, trained: Trained, base: Path, tmp_path: Path) -> None:
        prompts = json.loads(json.dumps(trained.manifest["prompts"]))
        prompts[1]["ids"][4] = ord("%")
        served = trained.manifest["prompts"][1]["ids"][4]
        reason = refusal(trained, base, tmp_path, prompts=prompts)
        assert reason == (
            "its training prompt 2 is not rendered here as it was trained: "
            f"the texts are equal, the tokens differ from token 5 on\n- 37 '%'\n+ {served} {chr(served)!r}"
        )


class TestDiff:
    @pytest.fixture
    def tokenizer(self, tiny_llama_folder: Path) -> TextTokenizer:
        return TextTokenizer.from_folder(tiny_llama_folder)

    def test_no_difference_is_none(self, tokenizer: TextTokenizer) -> None:
        assert (
            find_mismatch([TrainedPrompt(source="ab", text="ab", ids=(97, 98))], Renderer(tokenizer), tokenizer) is None
        )

    @pytest.mark.parametrize(
        ("ids", "lines"),
        [
            ((97,), ["- no token", "+ 98 'b'"]),
            ((97, 98, 99), ["- 99 'c'", "+ no token"]),
            ((97, 2**31 - 1), ["- 2147483647 ''", "+ 98 'b'"]),
        ],
    )
    def test_ids_that_are_missing_are_shown(
        self, tokenizer: TextTokenizer, ids: tuple[int, ...], lines: list[str]
    ) -> None:
        mismatch = find_mismatch([TrainedPrompt(source="ab", text="ab", ids=ids)], Renderer(tokenizer), tokenizer)
        assert mismatch is not None
        assert mismatch.splitlines()[1:] == lines

    def test_long_texts_are_shown_around_the_difference(self, tokenizer: TextTokenizer) -> None:
        served = "b" * 500
        prompt = TrainedPrompt(source=served, text="b" * 200 + "a" * 300, ids=(1,))
        mismatch = find_mismatch([prompt], Renderer(tokenizer), tokenizer)
        assert mismatch is not None
        assert mismatch.splitlines()[1:] == [f"- …'{'b' * 30}{'a' * 50}'…", f"+ …'{'b' * 80}'…"]


def _render(trained: Trained, home: Path, prompt: PromptSource) -> Rendering:
    harness = EngineHarness(trained.base, home)
    digest = store_adapter(trained.folder, harness.blobs)
    return harness.run(lambda engine: engine.render(RenderRequest(prompt=prompt, adapter=digest)))


def _resident_bytes(harness: EngineHarness, digest: str) -> int:
    async def work(engine: LocalEngine) -> int:
        await engine.warm(digest)
        return (await engine.info()).resident_adapter_bytes

    return harness.run(work)
