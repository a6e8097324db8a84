"""The scores of a real engine are those of transformers' logits in float32, token by token."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from core.base_models.registry import read_imported
from core.evaluations.rows import EvaluationRow, read_rows
from core.evaluations.scores import ScoredRow
from core.evaluations.spec import EvaluationSpec, JudgedModel
from core.jobs.spec import AdapterRef, FileRef
from core.serving.generation import SamplingParams
from core.text.files.examples import PromptCompletion
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.models.tiny_models import CONTEXT_TOKENS, write_tiny_llama, write_tiny_phi
from tests.worker.inference.engine_harness import EngineHarness, PeftReference
from worker.evaluating.asking import RowAsker
from worker.evaluating.questions import AskedRow
from worker.inference.engine import LocalEngine

NATS = 1e-4
EXAMPLES = (
    PromptCompletion(1, "Q: a\nA:", " yes"),
    PromptCompletion(2, "", "x"),
    PromptCompletion(3, "Wie heißt das? ", "日本語 – naïve 🦙"),
    PromptCompletion(4, "p" * 150, "c" * 90),
    PromptCompletion(5, "masked ", "one two three", ((4, 8),)),
)
METRICS = ("nats_per_token", "token_accuracy", "reference_probability", "exact_match", "stop_rate")


@pytest.mark.parametrize("write", [write_tiny_llama, write_tiny_phi])
def test_nats_and_choices_are_those_of_transformers(tmp_path: Path, write: object) -> None:
    assert callable(write)
    harness = EngineHarness(write(tmp_path / "base"), tmp_path)
    digest = harness.add_adapter(seed=3)
    spec = _spec(harness.base_folder, digest)
    rows = read_rows(EXAMPLES, spec.lines, Renderer(TextTokenizer.from_folder(harness.base_folder), spec)).rows

    async def score(engine: LocalEngine) -> list[ScoredRow]:
        asker = RowAsker(engine, spec, job_id="eval-x", caller="tests")
        return [await asker.ask(AskedRow(index, number, row)) for index in (0, 1) for number, row in enumerate(rows)]

    scored = harness.run(score)
    oracle = PeftReference(harness.base_folder)
    for one in scored:
        folder = None if one.model_index == 0 else tmp_path / "adapter-0"
        logprobs, chosen = _reference(oracle, folder, rows[one.row])
        assert one.tokens == len(logprobs)
        assert one.scores["nats_per_token"] == pytest.approx(-sum(logprobs) / len(logprobs), abs=NATS)
        assert one.scores["token_accuracy"] == sum(chosen) / len(chosen)
        answer = harness.peft_greedy(None if one.model_index == 0 else digest, rows[one.row].prompt_ids, 8)
        tokenizer = TextTokenizer.from_folder(harness.base_folder)
        assert one.answer == tokenizer.decode([id for id in answer if id not in tokenizer.end_ids])
        assert one.stopped == (answer[-1] in tokenizer.end_ids)
    by_model = [[one.scores["nats_per_token"] for one in scored if one.model_index == index] for index in (0, 1)]
    assert by_model[0] != by_model[1]


def _spec(base_folder: Path, digest: str) -> EvaluationSpec:
    return make_evaluation_spec(
        FileRef(id="file-x", sha256="0" * 64, examples=len(EXAMPLES), file_type="jsonl"),
        base_model_fingerprint=read_imported(base_folder).fingerprint,
        context_tokens=CONTEXT_TOKENS,
        lines=tuple(example.line for example in EXAMPLES),
        models=(
            JudgedModel(name="base"),
            JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256=digest)),
        ),
        metrics=METRICS,
        sampling=SamplingParams(max_tokens=8),
    )


def _reference(oracle: PeftReference, folder: Path | None, row: EvaluationRow) -> tuple[list[float], list[bool]]:
    """Give each counted token's log-probability by transformers, and whether it was the most likely one."""
    ids: Sequence[int] = (*row.prompt_ids, *row.answer_ids)
    with torch.inference_mode(), oracle._using(folder) as model:
        logits_TV = model(input_ids=torch.tensor([ids])).logits[0].float()
    tokenizer = oracle._loaded.tokenizer
    logits_TV = logits_TV[:, : tokenizer.vocab_size]
    logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
    places = [len(row.prompt_ids) + place for place, counts in enumerate(row.counted) if counts]
    logprobs = [float(logprobs_TV[place - 1, ids[place]]) for place in places]
    chosen = [int(logits_TV[place - 1].argmax()) == ids[place] for place in places]
    return logprobs, chosen
