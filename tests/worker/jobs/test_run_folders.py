from pathlib import Path

from worker.jobs.run_folders import drop_large_files, earlier_checkpoints, make_run_folder


def test_checkpoints_come_newest_attempt_and_step_first(tmp_path: Path) -> None:
    for place in ("a2/checkpoints/step-000009", "a2/checkpoints/step-000010", "a10/checkpoints/step-000004"):
        (tmp_path / "ftjob-1" / place).mkdir(parents=True)
    (tmp_path / "ftjob-1" / "a10" / "checkpoints" / "step-000005.incoming").mkdir()
    (tmp_path / "ftjob-2" / "a1" / "checkpoints" / "step-000099").mkdir(parents=True)
    folder = make_run_folder(tmp_path, "ftjob-1", 11)

    found = [Path(path).relative_to(tmp_path / "ftjob-1").as_posix() for path in earlier_checkpoints(folder)]

    assert found == ["a10/checkpoints/step-000004", "a2/checkpoints/step-000010", "a2/checkpoints/step-000009"]


def test_large_files_of_all_attempts_go(tmp_path: Path) -> None:
    first, second = make_run_folder(tmp_path, "ftjob-1", 1), make_run_folder(tmp_path, "ftjob-1", 2)
    for folder in (first, second):
        (folder / "checkpoints" / "step-000001").mkdir(parents=True)
        (folder / "continue_from").mkdir()
        (folder / "continue_from" / "adapter_model.safetensors").touch()
        for name in ("spec.json", "trainer.log", "training_file"):
            (folder / name).touch()

    drop_large_files(second)

    kept = sorted(path.relative_to(tmp_path / "ftjob-1").as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["a1/spec.json", "a1/trainer.log", "a2/spec.json", "a2/trainer.log"]
