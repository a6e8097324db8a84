"""`loramill preview` in a pipe, as JSON, as a page, and its refusals."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from app.cli.preview import show
from core.text.files.examples import PromptCompletion
from core.text.preview import preview
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.app.cli.command import Done, loramill, loramill_process
from tests.app.conftest import BASE
from tests.harness.models.byte_tokenizer import write_byte_tokenizer

QA = {"prompt": "Q:\n", "completion": " A"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with an imported base model, as far as its tokenizer goes."""
    folder = tmp_path / "base-models" / BASE
    write_byte_tokenizer(folder)
    imported = {
        "name": BASE,
        "fingerprint": "0" * 64,
        "source": {"path": str(folder)},
        "context_tokens": 512,
    }
    (folder / "loramill.json").write_text(json.dumps(imported))
    return tmp_path


def write(home: Path, *lines: object) -> Path:
    path = home / "data.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def run(home: Path, *arguments: str | Path) -> Done:
    return loramill(home, "preview", *arguments, columns=40)


def test_a_pipe_gets_words_and_bars_instead_of_colour(home: Path) -> None:
    options = ("--prompt-loss-weight", "0.1", "--limit", "1")
    done = loramill_process(home, "preview", write(home, QA, QA), *options, columns=40)
    assert done.stdout == (
        "w = 0.1: 2 completion tokens and 1 closing token are trained; 2 prompt tokens are trained with weight 0.1; "
        "1 first token, which nothing predicts, is seen and not trained.\n"
        "\n"
        "line 1: 6 tokens, 5 trained\n"
        "  [first token, not trained]\n"
        "  ┊Q\n"
        "  [prompt, weight 0.1]\n"
        "  │:│↵\n"
        "  [completion, trained]\n"
        "  ┃␣┃A\n"
        "  [end token, trained]\n"
        "  ┃<|endoftext|>\n"
        "\n"
        "More examples follow: --after-line 1\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_what_the_api_answers(home: Path) -> None:
    done = run(home, write(home, QA, QA, QA), "--json", "--after-line", "1", "--limit", "1")
    body = json.loads(done.stdout)
    assert (body["object"], body["model"], body["has_more"]) == ("preview", BASE, True)
    (example,) = body["examples"]
    assert (example["line"], example["trained_tokens"]) == (2, 3)
    assert example["tokens"][0] == {"id": 81, "text": "Q", "start": 0, "end": 1, "weight": 0.0, "reason": "prompt"}


def test_the_page_is_written_to_a_file(home: Path) -> None:
    path = home / "preview.html"
    done = run(home, write(home, QA | {"prompt": "<script>"}), "--html", path)
    assert f"The same as a page: {path}" in done.stdout
    html = path.read_text("utf-8")
    assert "8 prompt tokens are seen and not trained" in html
    assert "<script" not in html


def test_columns_are_shown_by_way_of_a_prompt_format_file(home: Path) -> None:
    made = home / "format.json"
    made.write_text('{"prompt": "{{q}}?", "completion": "{{a}}"}')
    done = run(home, write(home, {"q": "x", "a": "y"}), "--prompt-format", made)
    assert "┊x┊?" in done.stdout


def test_a_dropped_example_says_why(home: Path) -> None:
    done = run(home, write(home, {"prompt": "p" * 20, "completion": "c"}, QA), "--max-length", "8")
    assert (
        "line 1: 22 tokens, none trained\n  dropped: 22 tokens, max_length is 8\n  [cut off, never seen]" in done.stdout
    )
    assert "22 tokens cut off; 1 example left out." in done.stdout


@pytest.mark.parametrize(
    ("line", "options", "sentence"),
    [
        ({"prompt": "p"}, (), 'line 2: "completion" is missing'),
        ({"q": 1}, (), 'line 2: its format is "columns"'),
        (QA, ("--train-on", "last_assistant"), "train_on: "),
        (QA, ("--max-length", "513"), "max_length: the context of tiny holds 512 tokens"),
        (QA, ("--model", "other"), "no such model: other"),
        (QA, ("--html", "nowhere/preview.html"), "nowhere/preview.html cannot be written: No such file or directory"),
        (
            {"prompt": "p" * 20, "completion": "c"},
            ("--max-length", "8", "--over-length", "error"),
            "line 2 has 22 tokens, but max_length is 8",
        ),
    ],
)
def test_what_is_refused_is_one_sentence(home: Path, line: object, options: tuple[str, ...], sentence: str) -> None:
    done = run(home, write(home, QA, line), *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"loramill: {sentence}")
    assert done.stderr.count("\n") == 1


def test_an_empty_file_and_a_malformed_prompt_format_are_refused(home: Path) -> None:
    assert "holds no examples" in run(home, write(home)).stderr
    made = home / "format.json"
    made.write_text('{"prompt": "p"}')
    done = run(home, write(home, QA), "--prompt-format", made)
    assert done.stderr == f"loramill: prompt_format.completion: {made}: field required\n"


def test_a_terminal_gets_marks_and_lines_that_fit(home: Path) -> None:
    tokenizer = TextTokenizer.from_folder(home / "base-models" / BASE)
    examples = [PromptCompletion(1, "日本" * 20 + "\x1b[2J", "x" * 70)]
    found = preview(examples, Renderer(tokenizer), limit=1)
    console = Console(width=40, force_terminal=True, color_system="truecolor", highlight=False)
    with console.capture() as captured:
        console.print(show(found, 40), soft_wrap=True)
    assert "\x1b[2J" not in captured.get()
    assert "\x1b[1;4;32m" in captured.get()  # bold, underlined, green
    tokens = [line for line in show(found, 40).plain.splitlines() if line.startswith(("  ┊", "  ┃"))]
    assert len(tokens) > 5
    assert all(Console().measure(line).maximum <= 40 for line in tokens)
