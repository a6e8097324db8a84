"""Every trainer of the benchmark trains on the same tokens: what its collator gives, held against our examples."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.training import hf_trainer, ours
from benchmarks.training.adapters import load_with_adapter
from benchmarks.training.cases import PHI_TARGETS
from benchmarks.training.measurement import MeasurementRequest
from benchmarks.training.models import SHAPES, write_base
from benchmarks.training.rows import IGNORE_INDEX, Rows, TokenRow, generate

SHAPE = "phi-tiny"
Targets = list[tuple[int, ...]]  # of each row, ids with their places


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder, SHAPES[SHAPE], seed=0)
    return folder


@pytest.fixture(scope="module")
def rows() -> Rows:
    return generate(8, 2, vocabulary=SHAPES[SHAPE].vocabulary, seed=0)


def request_for(base: Path, trainer: str) -> MeasurementRequest:
    return MeasurementRequest(
        trainer, str(base), "", PHI_TARGETS, examples=8, rows_per_step=8, learning_rate=1e-3, seed=0
    )


def our_targets(rows: tuple[TokenRow, ...]) -> list[list[tuple[int, int]]]:
    """Give (place, id) of what ours trains on, for each row."""
    examples = ours.as_examples(rows)
    found = []
    for example in (examples[index] for index in range(len(examples))):
        assert set(example.weights_T.tolist()) == {0.0, 1.0}
        found.append([(t, int(example.ids_T[t])) for t in example.weights_T.nonzero()[0].tolist()])
    return found


def their_targets(batch: Any) -> list[list[tuple[int, int]]]:
    """Give (place, id) of what a model trains on that shifts its labels, for each row of a padded batch."""
    return [
        [(t, label) for t, label in enumerate(labels) if t and label != IGNORE_INDEX]
        for labels in batch["labels"].tolist()
    ]


def attended(batch: Any) -> list[list[int]]:
    return [
        [token for token, is_there in zip(ids, mask, strict=True) if is_there]
        for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("trainer", ["hf_fp32", "hf_best"])
def test_hf_trainer_has_our_targets(base: Path, rows: Rows, trainer: str) -> None:
    tokenizer, recipe = AutoTokenizer.from_pretrained(base), hf_trainer.RECIPES[trainer]
    batch = hf_trainer.make_collator(recipe, tokenizer)(hf_trainer.make_features(rows.training, recipe, 0))
    assert their_targets(batch) == our_targets(rows.training)
    assert attended(batch) == [list(row.ids) for row in rows.training]


def test_the_copied_recipe_trains_prompts_and_padding_too(base: Path, rows: Rows) -> None:
    tokenizer, recipe = AutoTokenizer.from_pretrained(base), hf_trainer.RECIPES["seed"]
    pad_id = tokenizer.eos_token_id
    batch = hf_trainer.make_collator(recipe, tokenizer)(hf_trainer.make_features(rows.training, recipe, pad_id))
    assert batch["labels"].shape == (8, hf_trainer.PADDED_TO)
    assert attended(batch) == [list(row.ids) for row in rows.training]
    for theirs, our, row in zip(their_targets(batch), our_targets(rows.training), rows.training, strict=True):
        assert set(our) < set(theirs)
        assert theirs[len(row.ids) - 1 :] == [(t, pad_id) for t in range(len(row.ids), hf_trainer.PADDED_TO)]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning:transformers")
@pytest.mark.parametrize("trainer", ["trl_default", "trl_tuned", "trl_packing"])
def test_trl_has_our_targets(base: Path, rows: Rows, trainer: str, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL, one of the peers, is not installed")
    from benchmarks.training import trl_trainer

    request = request_for(base, trainer)
    model = load_with_adapter(request, torch.float32)
    made = trl_trainer.make_trainer(request, rows.training, model, tmp_path, [])
    batches = list(made.get_train_dataloader())
    if trainer != "trl_packing":
        [batch] = batches
        assert sorted(their_targets(batch)) == sorted(our_targets(rows.training))
        assert sorted(attended(batch)) == sorted(list(row.ids) for row in rows.training)
        return
    assert len(batches) == made.get_train_dataloader().__len__() > 0
    found = Counter(segment for batch in batches for segment in _segments(batch))
    assert found == Counter((row.ids, tuple(row.labels)) for row in rows.training)


def _segments(batch: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a pack where positions begin anew; give ids and labels of each part."""
    begins = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*begins[1:], batch["input_ids"].shape[1]]
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    return [(tuple(ids[i:j]), tuple(labels[i:j])) for i, j in zip(begins, ends, strict=True)]


def test_rivals_get_the_rows_in_the_order_of_our_steps(base: Path, rows: Rows) -> None:
    ordered = ours.in_our_order(request_for(base, "hf_fp32"), rows.training)
    assert ordered != list(rows.training)
    assert Counter(row.ids for row in ordered) == Counter(row.ids for row in rows.training)
    plan = ours.make_plan(request_for(base, "ours"), len(rows.training))
    assert ordered == [rows.training[member] for member in plan.members_of(0)]


def test_the_written_base_is_the_same_each_time(base: Path, tmp_path: Path) -> None:
    write_base(tmp_path, SHAPES[SHAPE], seed=0)
    fingerprints = [json.loads((folder / "loramill.json").read_text())["fingerprint"] for folder in (base, tmp_path)]
    assert fingerprints[0] == fingerprints[1]
