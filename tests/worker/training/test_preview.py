"""What a preview shows is what a run trains on: one file rendered both ways, every id and weight compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.text.files.jsonl import JSONL
from core.text.files.read import read_examples
from core.text.preview import Preview, preview
from core.text.render_settings import OverLength, PromptFormat, TrainOn
from core.text.rendering import Reason, Renderer
from core.text.tokenizer import TextTokenizer
from tests.worker.training.run_folders import Line, make_job, never_stop
from worker.training.data.examples import RunData, load_data
from worker.training.preparation import rendering_of

PROMPTS: tuple[Line, ...] = (
    {"prompt": "What is 2 + 2?\nAnswer:", "completion": " 4"},
    {"prompt": "Grüße 日本語 🙂", "completion": " مرحبا 👩‍👩‍👧"},
    {"prompt": "a key: sk-123 and more", "completion": " the key sk-123 is hidden", "mask_spans": [[9, 15]]},
    {"prompt": "", "completion": "from nothing"},
    {"prompt": "long " * 120, "completion": " kept"},
    {"prompt": "short", "completion": " too long" * 60},
)
CHATS: tuple[Line, ...] = (
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello", "weight": 0.5},
            {"role": "user", "content": "and?"},
            {"role": "assistant", "content": "that is all", "mask_spans": [[0, 4]]},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "unwanted", "weight": 0},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "wanted"},
        ]
    },
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "untrained", "weight": 0}]},
)
COLUMNS: tuple[Line, ...] = ({"q": "Why?", "a": "Because."}, {"q": "tail ", "a": " b"})
FORMAT = PromptFormat(prompt="Q: {{q}}\nA: ", completion="{{a}}")


@pytest.fixture(params=["tiny_phi", "smollm2_folder"])
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def both_ways(
    folder: Path,
    base: Path,
    lines: tuple[Line, ...],
    *,
    max_length: int = 200,
    over_length: OverLength = "drop",
    **rendering: Any,
) -> tuple[Preview, RunData]:
    """Write a file, show it, and load it as the trainer does, with nothing held out."""
    path, nothing = folder / "training.jsonl", folder / "validation.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), "utf-8")
    nothing.write_text("")
    job = make_job(max_length=max_length, over_length=over_length, **rendering)
    made = Renderer(TextTokenizer.from_folder(base), rendering_of(job, base))
    shown = preview(read_examples(path, JSONL), made, limit=len(lines))
    loaded = load_data(
        made,
        job,
        training_file=path,
        validation_file=nothing,
        check_stop=never_stop,
    )
    return shown, loaded


def assert_equal(shown: Preview, loaded: RunData) -> None:
    trained = [example for example in shown.examples if example.trained_tokens]
    assert [example.line for example in trained] == loaded.training.lines.tolist()
    for index, example in enumerate(trained):
        seen = [token for token in example.tokens if token.reason is not Reason.TRUNCATED]
        assert [token.id for token in seen] == loaded.training[index].ids_T.tolist()
        weights = np.array([token.weight for token in seen], dtype=np.float32)
        assert weights.tolist() == loaded.training[index].weights_T.tolist()
        assert example.trained_tokens == np.count_nonzero(loaded.training[index].weights_T)
    totals, summary = shown.totals, loaded.summary
    answers = summary.completion_tokens + summary.closing_tokens + summary.untrained_answer_tokens
    assert (totals.prompt_tokens, totals.completion_tokens) == (summary.prompt_tokens, answers)
    assert totals.left_out == len(summary.dropped_lines) + len(summary.untrained_lines)
    whole = sum(example.dropped for example in shown.examples if example.line in summary.dropped_lines)
    assert totals.dropped == summary.truncated_tokens + whole


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("over_length", ["drop", "truncate_prompt"])
def test_prompts_and_completions(tmp_path: Path, base: Path, weight: float, over_length: OverLength) -> None:
    shown, loaded = both_ways(
        tmp_path, base, PROMPTS, over_length=over_length, max_length=100, prompt_loss_weight=weight
    )
    assert_equal(shown, loaded)
    assert shown.totals.left_out == (2 if over_length == "drop" else 1)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("train_on", ["all_assistant", "last_assistant"])
def test_conversations(tmp_path: Path, base: Path, weight: float, train_on: TrainOn) -> None:
    shown, loaded = both_ways(tmp_path, base, CHATS, prompt_loss_weight=weight, train_on=train_on, max_length=256)
    assert_equal(shown, loaded)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_columns(tmp_path: Path, base: Path, weight: float) -> None:
    shown, loaded = both_ways(tmp_path, base, COLUMNS, prompt_loss_weight=weight, prompt_format=FORMAT)
    assert_equal(shown, loaded)
    assert {example.note for example in shown.examples} == {"a space at the prompt's end was moved to the completion"}
