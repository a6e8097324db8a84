"""Recorded decode steps: the logits of steps taken without, whatever happened since, and no trace in others' slots."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import BaseModelInvalid
from core.settings import Settings
from tests.harness.models.served_models import serve, serve_fp32
from tests.harness.models.twin_runners import PairedRequest, Twins, run_mix
from tests.worker.inference.model.replaying_recorder import BrokenRecorder, ReplayingRecorder, StuckRecorder
from worker.inference.kv_cache.slots import KvPool
from worker.inference.model import cuda_graphs, runner_building
from worker.inference.model.contract import StepRow
from worker.inference.model.cuda_recorder import Recorder
from worker.inference.model.ops import TorchOps
from worker.inference.model.passes.blocks import OwnModel
from worker.inference.model.projections.projection import maker
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.models.serving import StoredModel

COLUMNS = 64


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["tiny-phi", "tiny-llama", "tiny-qwen2"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param.replace('-', '_')}_folder")
    return found


def make_runner(folder: Path, recorder: Recorder | None, *, device: str | None = None) -> ModelRunner:
    served = serve(folder, dtype="float32", device=None if device is None else torch.device(device))
    assert isinstance(served.source, StoredModel)
    way = OwnModel(served.source, maker("model", None), TorchOps(), served.context_tokens, dtype=torch.float32)
    kv = KvPool(way.kv_shape, 4096 * way.kv_shape.bytes_per_token, served.context_tokens)
    return ModelRunner(way, served.tokenizer.vocab_size, kv, COLUMNS, recorder=recorder)


@pytest.fixture
def recorder() -> ReplayingRecorder:
    return ReplayingRecorder()


@pytest.fixture
def twins(folder: Path, recorder: ReplayingRecorder) -> Twins:
    return Twins(make_runner(folder, None), make_runner(folder, recorder))


def test_any_mix_of_adapters_gets_the_logits_of_steps_without(twins: Twins, recorder: ReplayingRecorder) -> None:
    run_mix(twins, 60)
    assert 2 < recorder.recorded < recorder.replayed / 2


def test_a_text_that_outgrows_a_width_is_seen_whole(twins: Twins, recorder: ReplayingRecorder) -> None:
    request = twins.begin(prompt=120, room=200)
    for _ in range(16):
        twins.step(request)
    assert (recorder.recorded, recorder.replayed) == (2, 16)


def test_an_arena_that_was_made_anew_is_the_one_that_is_used(twins: Twins, recorder: ReplayingRecorder) -> None:
    first = twins.begin()
    twins.step(first)
    twins.step(first)
    second = twins.begin()
    for _ in range(3):
        twins.step(first)
        twins.step(second, first)
    assert recorder.recorded == 3
    assert recorder.kept == 2


def test_layers_that_a_later_adapter_changes_take_part(twins: Twins, recorder: ReplayingRecorder) -> None:
    first, second = twins.begin(twins.adapter(8, "q_proj")), twins.begin()
    twins.step(first, second)
    second.adapter = twins.adapter(8)
    twins.step(first, second)
    twins.step(first, second)
    assert (recorder.recorded, recorder.replayed) == (2, 3)


def test_an_adapter_in_other_columns_needs_no_new_recording(twins: Twins, recorder: ReplayingRecorder) -> None:
    first, second = twins.adapter(8), twins.adapter(8)
    requests = [twins.begin(first), twins.begin(second)]
    twins.step(*requests)
    twins.displace(first)
    twins.displace(second)
    twins.place(second)
    twins.place(first)
    assert twins.graphed.bank.columns_of(second).start == 0
    twins.step(*requests)
    assert (recorder.recorded, recorder.replayed) == (1, 2)


def test_rows_of_the_base_model_do_without_columns(twins: Twins, recorder: ReplayingRecorder) -> None:
    adapted, base = twins.begin(twins.adapter(8)), twins.begin()
    twins.step(adapted, base)
    twins.step(base, adapted)
    assert recorder.recorded == 1
    twins.end(adapted)
    twins.step(base)
    twins.adapter(4)
    twins.step(base)
    assert recorder.recorded == 2


def test_places_without_a_row_keep_all_that_their_slots_hold(twins: Twins) -> None:
    adapter = twins.adapter(8)
    requests = [twins.begin(adapter, prompt=5 + number) for number in range(5)]
    elsewhere = twins.begin(prompt=150, room=200)
    stepped, waiting = [requests[0], requests[3]], [requests[1], requests[2], requests[4], elsewhere]
    held = [twins.graphed.kv.read(request.graphed, 0, request.graphed.length) for request in waiting]
    for _ in range(3):
        twins.step(*stepped)
    for request, before in zip(waiting, held, strict=True):
        assert torch.equal(twins.graphed.kv.read(request.graphed, 0, request.graphed.length), before)
    for _ in range(2):
        twins.step(*requests)
    twins.step(elsewhere)


def test_logits_stay_as_they_were_when_the_next_step_is_taken(twins: Twins) -> None:
    request = twins.begin()
    logits_KV = twins.step(request)
    before = logits_KV.clone()
    twins.step(request)
    assert torch.equal(logits_KV, before)


def two_arenas(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    return (twins.begin(), 1, 1), (twins.begin(room=200), 1, 1)


def with_dora(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    return (twins.begin(twins.adapter(4, has_dora=True)), 1, 1), (twins.begin(), 1, 1)


def two_tokens(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    return (twins.begin(), 1, 1), (twins.begin(), 2, 1)


def part_of_a_prompt(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    return (twins.begin(), 1, 1), (twins.begin(), 20, 1)


def nothing_wanted(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    return (twins.begin(), 1, 1), (twins.begin(), 1, 0)


def full_neighbour(twins: Twins) -> Sequence[tuple[PairedRequest, int, int]]:
    twins.begin(prompt=128, room=128)
    return ((twins.begin(), 1, 1),)


@pytest.mark.parametrize(
    "prepare", [two_arenas, with_dora, two_tokens, part_of_a_prompt, nothing_wanted, full_neighbour]
)
def test_other_steps_are_taken_without(
    prepare: Callable[[Twins], Sequence[tuple[PairedRequest, int, int]]], twins: Twins, recorder: ReplayingRecorder
) -> None:
    twins.feed(*prepare(twins))
    assert recorder.recorded == 0


def test_a_step_that_is_taken_apart_is_taken_without(twins: Twins, recorder: ReplayingRecorder) -> None:
    request = twins.begin()
    while not twins.graphed.timer.is_on:
        twins.graphed.timer.begin()
    twins.step(request)
    assert recorder.recorded == 0


def test_an_engine_tries_replayed_steps_when_it_starts(
    folder: Path, recorder: ReplayingRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, engine_native=False)
    monkeypatch.setattr(runner_building, "_make_recorder", lambda *_: recorder)
    build_runner(serve_fp32(folder), settings)
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    monkeypatch.setattr(runner_building, "_make_recorder", lambda *_: StuckRecorder())
    with pytest.raises(BaseModelInvalid, match="try LORAMILL_ENGINE_CUDA_GRAPHS=false"):
        build_runner(serve_fp32(folder), settings)


def test_what_cannot_be_recorded_is_taken_without_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    twins = Twins(make_runner(folder, None), make_runner(folder, BrokenRecorder()))
    request = twins.begin()
    twins.step(request)
    twins.step(request)
    assert [record.message for record in caplog.records] == [
        "Decode steps are taken without graphs from now on: operation not permitted when stream is capturing"
    ]


def test_the_recording_that_was_replayed_last_makes_room(
    twins: Twins, recorder: ReplayingRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    first, second, third = (twins.begin() for _ in range(3))
    twins.step(first)
    twins.step(first, second)
    twins.step(first)
    twins.step(first, second, third)
    assert (recorder.recorded, recorder.kept) == (3, 2)
    twins.step(first)
    assert recorder.recorded == 3
    twins.step(first, second)
    assert recorder.recorded == 4


def test_a_recording_asks_the_device_for_nothing(folder: Path, recorder: ReplayingRecorder) -> None:
    valueless = make_runner(folder, recorder, device="meta")
    adapter = Twins(valueless, valueless).adapter(8)
    slots = [valueless.kv.allocate(100) for _ in range(3)]
    logits_KV = valueless.forward([StepRow(slot, [5], adapter, 1) for slot in slots if slot is not None])
    assert logits_KV.shape == (3, valueless._vocab_size)
    assert (recorder.recorded, recorder.replayed) == (1, 1)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0])],
        lambda x: x[: int(x.sum())],
        lambda x: x if x.all() else -x,
        lambda x: x[x.nonzero()],
    ],
)
def test_the_replaying_recorder_refuses_what_waits_for_the_device(
    work: Callable[[Tensor], Tensor], recorder: ReplayingRecorder
) -> None:
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        recorder.record(lambda: work(torch.ones(2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_graphs_give_the_logits_of_steps_without(folder: Path, tmp_path: Path) -> None:
    plain, graphed = (
        build_runner(serve_fp32(folder), Settings(home=tmp_path, engine_cuda_graphs=wanted)) for wanted in (False, True)
    )
    twins = Twins(plain, graphed)
    run_mix(twins, 200)
    test_places_without_a_row_keep_all_that_their_slots_hold(twins)
    assert graphed._graphs is not None
    assert graphed._graphs._recorded, "recording failed; the log says why"
