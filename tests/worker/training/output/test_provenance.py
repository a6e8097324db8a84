"""What a real run tells of how its adapter came about, and what is left of it when another machine goes on."""

import json
import platform
from pathlib import Path

import pytest
import torch

from core.provenance.record import Provenance, Stint
from core.serving.adapter_format import digest_file
from core.text.held_out import HELD_OUT_VERSION
from core.text.tokenizer import TextTokenizer
from tests.worker.training.run_folders import SUMS, render, stop_after, train, write_run
from worker.trainer_process.messages import Finished, Note
from worker.trainer_process.run_folder import CHECKPOINTS, read_finished
from worker.training.data.plan import PLAN_VERSION
from worker.training.output import provenance as module
from worker.training.output.checkpoint import MANIFEST, STATE, CheckpointManifest
from worker.training.output.provenance import changes


def told_by(folder: Path) -> Provenance:
    finished = read_finished(folder)
    assert finished is not None
    assert finished.provenance is not None
    return finished.provenance


def test_a_run_tells_what_it_was_fed_by_which_rules_and_what_computed_it(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    said = train(folder).of(Finished)[0].provenance
    told = told_by(folder)
    assert told == said
    (tmp_path / "rendered").mkdir()
    data = render(tmp_path / "rendered", tiny_phi, SUMS)
    assert (told.training.sha256, told.training.examples) == (data.training.digest, len(data.training))
    assert told.training.tokens == int(data.training.lengths.sum())
    assert (told.held_out.sha256, told.held_out.examples) == (data.held_out.digest, len(data.held_out))
    assert (told.planner_version, told.held_out_version) == (PLAN_VERSION, HELD_OUT_VERSION)
    assert told.tokenizer_sha256 == TextTokenizer.from_folder(tiny_phi).digest
    [stint] = told.stints
    assert (stint.from_step, stint.host) == (0, platform.node())
    assert stint.environment["torch"] == torch.__version__
    assert stint.environment["kernels"] == "none"
    assert stint.environment["threads"] == str(torch.get_num_threads())
    assert stint.environment["cpu_level"]


def test_where_a_validation_file_is_scored_nothing_is_held_out(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, validation=SUMS[:2])
    train(folder)
    assert told_by(folder).held_out_version is None


def test_going_on_where_it_began_is_no_new_stint(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    stop_after(folder, 3)
    train(folder)
    assert [stint.from_step for stint in told_by(folder).stints] == [0]


def test_a_run_that_goes_on_elsewhere_names_both_machines(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    with monkeypatch.context() as other:
        other.setattr(module, "version", lambda name: "0.1")
        other.setattr(platform, "node", lambda: "first-host")
        stop_after(folder, 3)
    [warning] = [note.message for note in train(folder).of(Note) if "other libraries or hardware" in note.message]
    first, second = told_by(folder).stints
    assert (first.from_step, first.host, first.environment["torch"]) == (0, "first-host", "0.1")
    assert (second.from_step, second.host) == (3, platform.node())
    assert second.environment["torch"] == torch.__version__
    assert f"torch was 0.1, is {torch.__version__}" in warning


def test_a_checkpoint_from_before_stints_were_kept_names_no_host(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    stop_after(folder, 3)
    for checkpoint in (folder / CHECKPOINTS).iterdir():
        state = json.loads((checkpoint / STATE).read_text())
        del state["stints"]
        state["environment"] = {"torch": "1.0"}
        (checkpoint / STATE).write_text(json.dumps(state))
        manifest = CheckpointManifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
        files = manifest.files | {STATE: digest_file(checkpoint / STATE)}
        (checkpoint / MANIFEST).write_text(CheckpointManifest(files=files).model_dump_json())
    train(folder)
    first, second = told_by(folder).stints
    assert first == Stint(from_step=0, host=None, system=None, environment={"torch": "1.0"})
    assert (second.from_step, second.host) == (3, platform.node())


def test_only_what_both_records_have_can_have_changed() -> None:
    assert changes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == {"b": ("2", "3")}
