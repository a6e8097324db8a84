"""`loramill lint`: what it says of files, and its exit status."""

import json
from pathlib import Path

import pytest

from core.base_models.registry import Folder
from core.text.render_settings import RenderFields
from tests.app.cli.command import Done, loramill, loramill_process
from tests.harness.models.byte_tokenizer import write_byte_tokenizer

GOOD = '{"prompt": "Which is the largest?", "completion": " The blue one."}\n'
OTHER = '{"prompt": "Where do they live?", "completion": " In the far north."}\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a base model named tiny, of which only the tokenizer is there."""
    folder = tmp_path / "base-models" / "tiny"
    write_byte_tokenizer(folder)
    source = Folder(path=folder).model_dump(mode="json")
    imported = {"name": "tiny", "fingerprint": "0" * 64, "source": source, "context_tokens": 512}
    (folder / "loramill.json").write_text(json.dumps(imported))
    return tmp_path


def lint(home: Path, *arguments: str, columns: int = 80) -> Done:
    return loramill(home, "lint", *arguments, columns=columns)


def test_sound_data_exit_0_with_their_numbers(home: Path) -> None:
    (home / "train.jsonl").write_text(GOOD + OTHER)
    done = lint(home, "train.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train.jsonl for tiny: 2 examples; errors 0, warnings 0, info 0" in done.stdout
    assert "prompt_loss_weight 0" in done.stdout


def test_an_error_exits_1_and_is_shown_with_line_and_remedy(home: Path) -> None:
    (home / "train.jsonl").write_text(GOOD + "{\n" + GOOD)
    done = loramill_process(home, "lint", "train.jsonl")
    assert (done.returncode, done.stderr) == (1, "")
    shown = done.stdout.split()
    assert shown.index("malformed") < shown.index("duplicate")
    assert "line 2" in done.stdout
    assert "→ Correct these lines" in done.stdout


def test_a_warning_exits_0(home: Path) -> None:
    (home / "train.jsonl").write_text(GOOD + GOOD)
    assert lint(home, "train.jsonl").returncode == 0


def test_narrow_terminals_cut_nothing_off(home: Path) -> None:
    (home / "train.jsonl").write_text(GOOD + OTHER + GOOD)
    narrow, wide = (lint(home, "train.jsonl", columns=columns).stdout for columns in (40, 200))
    assert narrow.split() == wide.split()
    assert max(map(len, narrow.splitlines())) <= 50  # the table of lengths stays whole


def test_json_is_the_report_of_the_api(home: Path) -> None:
    (home / "train.jsonl").write_text(GOOD + OTHER)
    (home / "valid.jsonl").write_text(GOOD)
    done = lint(home, "train.jsonl", "--validation", "valid.jsonl", "--json", "--max-length", "36")
    body = json.loads(done.stdout)
    assert (body["object"], body["file"], body["max_length"]) == ("file.report", "train.jsonl", 36)
    assert {finding["code"] for finding in body["findings"]} == {"over_length_dropped", "validation_overlap"}


def test_a_prompt_format_is_read_from_its_file(home: Path) -> None:
    (home / "train.jsonl").write_text('{"q": "what", "a": "this"}\n')
    (home / "format.json").write_text('{"prompt": "{{q}}?", "completion": " {{a}}"}')
    assert lint(home, "train.jsonl").returncode == 1
    assert lint(home, "train.jsonl", "--prompt-format", "format.json").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train.jsonl", "--model", "other"), "no such model: other"),
        (("train.jsonl", "--max-length", "513"), "max_length: the context of tiny holds 512 tokens"),
        (("train.jsonl", "--prompt-format", "latin.json"), "latin.json is not UTF-8"),
        (("train.jsonl", "--prompt-format", "null.json"), "prompt_format: null.json: input should be an object"),
        (("train.csv",), "the file begins with a JSON object"),
    ],
)
def test_what_cannot_be_done_is_one_line_on_stderr(home: Path, arguments: tuple[str, ...], said: str) -> None:
    (home / "train.jsonl").write_text(GOOD)
    (home / "train.csv").write_text(GOOD)
    (home / "latin.json").write_bytes(b'{"prompt": "\xe9", "completion": "a"}')
    (home / "null.json").write_text("null")
    done = lint(home, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["lint", "preview"])
def test_every_render_setting_is_an_option_with_its_own_bounds_and_values(home: Path, command: str) -> None:
    shown = " ".join(loramill(home, command, "--help", columns=200).stdout.split())
    for name, field in RenderFields.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert str(field.description) in shown
    (home / "train.jsonl").write_text(GOOD)
    for option, wrong in (("--prompt-loss-weight", "1.5"), ("--max-length", "7"), ("--over-length", "cut")):
        assert loramill(home, command, "train.jsonl", option, wrong).returncode == 2
