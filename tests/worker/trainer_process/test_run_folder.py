from pathlib import Path

from core.jobs.spec import FileRef, JobSpec, LoraSpec
from core.text.render_settings import PromptFormat
from worker.trainer_process.run_folder import SPEC, RunSpec, read_spec, write_spec


def test_a_specification_comes_back_whole(tmp_path: Path) -> None:
    job = JobSpec(
        base_model="phi-2",
        training_file=FileRef(id="file-1", sha256="0" * 64, examples=3, file_type="jsonl"),
        validation_file=None,
        n_epochs=3,
        batch_size=16,
        learning_rate=1e-4 / 3,
        learning_rate_multiplier=1.0,
        lora=LoraSpec(target_modules=("q_proj",)),
        prompt_loss_weight=0.1,
        train_on="all_assistant",
        prompt_format=PromptFormat(prompt="{{frage}} für", completion="{{antwort}}"),
        max_length=512,
        over_length="drop",
        seed=7,
    )
    spec = RunSpec(
        job_id="ftjob-1",
        token=2,
        job=job,
        base_model_folder="/models/phi-2",
        base_model_fingerprint="f" * 64,
        validation_file="validation_file",
        resume_from=("/runs/a1/checkpoints/step-000003",),
        adapter_name="ft:phi-2:local::1",
    )
    write_spec(tmp_path, spec)
    assert read_spec(tmp_path) == spec
    assert [path.name for path in tmp_path.iterdir()] == [SPEC]
