"""A type of file that only its entry in the table knows: taken in, checked, shown, counted, linted and trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from starlette.testclient import TestClient

from app.fine_tuning import token_counts
from core.errors import FileTypeUnclear, InvalidInput
from core.jobs.spec import JobSpec
from core.store import jobs
from core.text.files.examples import Example, LineProblem, PromptCompletion
from core.text.files.file_type import FileType, Signature
from core.text.files.read import FILE_TYPES, file_type_of
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.app.conftest import BASE, ApiHarness, upload
from tests.worker.training.run_folders import never_stop
from worker.training.data.examples import load_data
from worker.training.preparation import rendering_of

MAGIC = b"#arrows"
N_EXAMPLES = 40


def read_line(raw: bytes, line: int) -> Example | LineProblem | None:
    """Read `prompt -> completion`."""
    text = raw.decode().strip()
    if not text or text.startswith("#"):
        return None
    prompt, arrow, completion = text.partition(" -> ")
    return PromptCompletion(line, prompt, completion) if arrow else LineProblem(line, "there is no arrow", "no_arrow")


def read_arrows(content: BinaryIO, max_line_bytes: int) -> Iterator[Example | LineProblem]:
    for number, raw in enumerate(content, start=1):
        example = read_line(raw, number)
        if example is not None:
            yield example


SIGNATURE = Signature(lambda head: head.startswith(MAGIC), "with the word #arrows", is_required=True)
BY_LINES = FileType("arrows", "Arrows", (".arrows", ".arr"), read_arrows, read_line, SIGNATURE)
AS_A_WHOLE = FileType("arrows", "Arrows", (".arrows", ".arr"), read_arrows, None, SIGNATURE)
CONTENT = MAGIC + b"\n" + b"".join(b"p%d -> c%d\n" % (n, n) for n in range(N_EXAMPLES))


@pytest.fixture(params=[BY_LINES, AS_A_WHOLE], ids=["by lines", "as a whole"])
def arrows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FileType:
    file_type: FileType = request.param
    monkeypatch.setitem(FILE_TYPES, file_type.name, file_type)
    return file_type


@pytest.fixture
def file(arrows: FileType, client: TestClient) -> dict[str, Any]:
    """An uploaded file of the type, as the API tells of it."""
    uploaded: dict[str, Any] = upload(client, CONTENT, filename="train.arr").json()
    return uploaded


def test_its_files_are_told_by_name_or_first_bytes(arrows: FileType) -> None:
    assert file_type_of("train.arr", MAGIC) is arrows
    assert file_type_of("train", MAGIC) is arrows
    with pytest.raises(FileTypeUnclear, match=r"begins with the word #arrows; give it a name that ends in \.arrows"):
        file_type_of("train.csv", MAGIC)
    with pytest.raises(FileTypeUnclear, match=r"ends in \.arr, but the file does not begin with the word #arrows"):
        file_type_of("train.arr", b"p -> c")


def test_an_upload_is_checked_and_recorded(file: dict[str, Any]) -> None:
    told = {name: file[name] for name in ("status", "file_type", "format", "examples")}
    assert told == {
        "status": "processed",
        "file_type": "arrows",
        "format": "prompt_completion",
        "examples": N_EXAMPLES,
    }


def test_an_uploads_problems_are_named(arrows: FileType, client: TestClient) -> None:
    uploaded = upload(client, CONTENT + b"p = c\n", filename="train.arr").json()
    assert uploaded["status"] == "error"
    assert uploaded["status_details"] == f"line {N_EXAMPLES + 2}: there is no arrow"


def test_what_it_wants_installed_is_asked_for_before_its_bytes(
    arrows: FileType, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require() -> None:
        raise InvalidInput("Arrows cannot be read here")

    wanting = FileType(arrows.name, arrows.title, arrows.extensions, read_arrows, require=require)
    monkeypatch.setitem(FILE_TYPES, arrows.name, wanting)
    response = upload(client, CONTENT, filename="train.arr")
    assert (response.status_code, response.json()["error"]["message"]) == (400, "Arrows cannot be read here")


def test_its_examples_are_shown(client: TestClient, file: dict[str, Any]) -> None:
    request = {"model": BASE, "training_file": file["id"], "limit": 2}
    shown = client.post("/v1/fine_tuning/preview", json=request).json()["examples"]
    assert [example["line"] for example in shown] == [2, 3]
    assert [example["text"] for example in shown] == ["p0c0<|endoftext|>", "p1c1<|endoftext|>"]


def test_there_is_a_report_on_it_even_with_problems(arrows: FileType, client: TestClient) -> None:
    file_id = upload(client, CONTENT + b"p = c\n", filename="train.arr").json()["id"]
    report = client.get(f"/v1/files/{file_id}/report", params={"model": BASE}).json()
    assert [finding["code"] for finding in report["findings"] if finding["severity"] == "error"] == ["no_arrow"]


@pytest.mark.parametrize("is_sampled", [False, True])
def test_its_tokens_are_counted(
    client: TestClient, file: dict[str, Any], monkeypatch: pytest.MonkeyPatch, is_sampled: bool
) -> None:
    if is_sampled:
        monkeypatch.setattr(token_counts, "EXACT_EXAMPLES", 10)
        monkeypatch.setattr(token_counts, "SAMPLED_EXAMPLES", 10)
        monkeypatch.setattr(token_counts, "WINDOWS", 4)
        monkeypatch.setattr(token_counts, "WINDOW_BYTES", 20)
    request = {"model": BASE, "training_file": file["id"]}
    estimate = client.post("/v1/fine_tuning/estimates", json=request).json()
    assert estimate["sampled"] is is_sampled
    assert (estimate["read_examples"] < N_EXAMPLES) is is_sampled
    assert estimate["examples"] + estimate["held_out_examples"] == pytest.approx(N_EXAMPLES, abs=1)


def test_a_job_trains_on_it(client: TestClient, harness: ApiHarness, file: dict[str, Any], tmp_path: Path) -> None:
    job = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file["id"]}).json()
    with harness.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job["id"]).spec)
    path = tmp_path / "training_file"
    harness.blobs.fetch(spec.training_file.sha256, path)
    base = harness.settings.base_models_folder / BASE
    tokenizer = TextTokenizer.from_folder(base)
    renderer = Renderer(tokenizer, rendering_of(spec, base))
    data = load_data(renderer, spec, training_file=path, validation_file=None, check_stop=never_stop)
    texts = {
        tokenizer.decode(side[index].ids_T.tolist(), skip_special=True)
        for side in (data.training, data.held_out)
        for index in range(len(side))
    }
    assert texts == {f"p{number}c{number}" for number in range(N_EXAMPLES)}
