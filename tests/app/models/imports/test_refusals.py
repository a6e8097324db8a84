"""What is refused of an import: by its name, and with nothing left on disk, in the store or in the database."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.app.models.imports.sent_adapter import (
    FIRST,
    RAW,
    Imported,
    Tensors,
    adapter,
    safetensors,
    send,
    send_files,
    tar,
    tar_gz,
    tar_of,
    tensors_of,
    zip_of,
)

LIMIT_BYTES = 64 * 1024  # of the harness' uploads


@pytest.fixture
def refused(client: TestClient, harness: ApiHarness) -> Iterator[Callable[..., Imported]]:
    """Sends what must be refused; then there must be nothing that was not there before."""
    before = everything(harness.settings.home)

    def send_refused(content: bytes, fields: dict[str, str] = RAW, filename: str = "adapter") -> Imported:
        answer = send(client, content, fields, filename)
        assert answer.status in (400, 413), answer
        return answer

    yield send_refused
    assert everything(harness.settings.home) == before
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [BASE]
    assert harness.engine.warmed == []


def everything(home: Path) -> set[Path]:
    """List all files below a home folder, the database's own aside."""
    return {path for path in home.rglob("*") if path.is_file() and not path.name.startswith("loramill.db")}


def named(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def with_members(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return tar_of([*members, *((tarfile.TarInfo(name), content) for name, content in adapter().items())])


def zip_link() -> bytes:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    return _zip_with(link, b"/etc/passwd")


def _zip_with(member: zipfile.ZipInfo | str, content: bytes) -> bytes:

    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(member, content)
        for name, own in adapter().items():
            archive.writestr(name, own)
    return written.getvalue()


UNSAFE = {
    "a tar that climbs out": with_members((named("../evil"), b"x")),
    "a tar that climbs within": with_members((named("a/../../evil"), b"x")),
    "an absolute tar": with_members((named("/etc/evil"), b"x")),
    "a tar with a drive": with_members((named("C:evil"), b"x")),
    "a tar with backslashes": with_members((named("..\\evil"), b"x")),
    "a symbolic link": with_members((named("link", kind=tarfile.SYMTYPE, target="/etc/passwd"), b"")),
    "a hard link": with_members((named("link", kind=tarfile.LNKTYPE, target=CONFIG), b"")),
    "a link as the weights": tar_of(
        [
            (named(CONFIG), adapter()[CONFIG]),
            (named(WEIGHTS, kind=tarfile.SYMTYPE, target="/proc/self/environ"), b""),
        ]
    ),
    "a device": with_members((named("dev", kind=tarfile.CHRTYPE), b"")),
    "a pipe": with_members((named("pipe", kind=tarfile.FIFOTYPE), b"")),
    "a sparse file": with_members((named("sparse", kind=tarfile.GNUTYPE_SPARSE), b"")),
    "a name twice": with_members((named(CONFIG), b"{}")),
    "a name twice, spelt otherwise": with_members((named(f"./{CONFIG}"), b"{}")),
    "a zip that climbs out": _zip_with("../evil", b"x"),
    "an absolute zip": _zip_with("/etc/evil", b"x"),
    "a link in a zip": zip_link(),
    "two adapters": tar({**adapter(), **{f"b/{name}": content for name, content in adapter().items()}}),
    "no adapter": tar({"README.md": b"x"}),
    "no weights": tar({CONFIG: adapter()[CONFIG]}),
    "weights elsewhere": tar({f"a/{CONFIG}": adapter()[CONFIG], WEIGHTS: adapter()[WEIGHTS]}),
    "no archive": b"x" * 1000,
    "nothing": b"",
    "an empty zip": zip_of({}),
    "half a tar": tar(adapter())[:2000],
    "half a gzip": tar_gz(adapter())[:-20],
    "half a zip": zip_of(adapter())[:-20],
    "a gzip of something else": gzip.compress(b"x" * 1000),
    "a zip packed otherwise": zip_of(adapter(), compression=zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("content", UNSAFE.values(), ids=UNSAFE.keys())
def test_an_archive_that_is_no_plain_adapter(refused: Callable[..., Imported], content: bytes) -> None:
    assert refused(content).refusal == (400, "import_refused", "file")


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "rng_state.pth", "a/b/training_args.BIN"])
def test_a_pickle_is_refused_by_name_beside_a_sound_adapter_too(refused: Callable[..., Imported], name: str) -> None:
    answer = refused(tar({**adapter(), name: pickle.dumps({"a": 1})}))
    assert f"{name!r} is a pickle" in answer.message


def test_a_pickle_in_the_place_of_the_weights_is_no_safetensors_file(refused: Callable[..., Imported]) -> None:
    assert "no safetensors file" in refused(tar(adapter() | {WEIGHTS: pickle.dumps([1.5] * 100)})).message


BOMBS = {
    "a gzip of zeros": gzip.compress(bytes(200 * LIMIT_BYTES)),
    "a gzip of a tar of zeros": tar_gz(adapter() | {"zeros": bytes(2 * LIMIT_BYTES)}),
    "a zip of zeros": zip_of(adapter() | {"zeros": bytes(20 * LIMIT_BYTES)}),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_by_its_size(refused: Callable[..., Imported], content: bytes) -> None:
    assert len(content) < LIMIT_BYTES
    assert "larger than 65,536 bytes together" in refused(content).message


def test_a_zip_that_declares_less_than_it_holds_gives_no_more_than_it_declares(
    refused: Callable[..., Imported],
) -> None:
    honest = zip_of(adapter())
    size = len(adapter()[WEIGHTS])
    at = honest.rindex(struct.pack("<I", size))  # in the directory, which counts
    assert "damaged" in refused(honest[:at] + struct.pack("<I", size - 4) + honest[at + 4 :]).message


def test_a_zip_that_declares_more_than_it_holds_is_cut_short(refused: Callable[..., Imported]) -> None:
    honest = zip_of(adapter(), compression=zipfile.ZIP_STORED)
    size = len(adapter()[CONFIG])
    at = honest.rindex(struct.pack("<I", size))
    refused(honest[:at] + struct.pack("<I", size + 9) + honest[at + 4 :])


def test_a_directory_that_is_larger_than_any_adapters_is_not_read(client: TestClient, harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"max_upload_bytes": 8 * 2**20})
    long_names = {f"{number:05}{'n' * 60_000}": b"" for number in range(20)}
    long_pax = with_members((named("x" * 2**21), b""))
    with TestClient(harness.app(), base_url=LOCAL) as large:
        for content in (zip_of(long_names | adapter()), long_pax):
            assert "larger than an adapter's can be" in send(large, content).message
    assert client.get("/v1/models").json()["data"][1:] == []


def test_more_members_than_any_adapter_has_are_not_looked_through(harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"max_upload_bytes": 8 * 2**20})
    with TestClient(harness.app(), base_url=LOCAL) as large:
        many = {f"f{number}": b"" for number in range(1025)}
        assert "more than 1,024 members" in send(large, zip_of(many)).message
        assert "more than 1,024 members" in send(large, tar(many)).message


def test_an_upload_over_the_limit_is_refused_as_any_other(refused: Callable[..., Imported]) -> None:
    assert refused(tar(adapter() | {"x": bytes(LIMIT_BYTES)})).refusal == (413, "file_too_large", "file")


def changed(change: Callable[[Tensors], object]) -> bytes:
    tensors = tensors_of()
    change(tensors)
    return tar(adapter() | {WEIGHTS: safetensors(tensors)})


def value(number: float) -> Callable[[Tensors], object]:
    packed = struct.pack("<f", number)
    return lambda tensors: tensors.update({FIRST: (*tensors[FIRST][:2], tensors[FIRST][2][:-4] + packed)})


HEAD = "base_model.model.lm_head.lora_A.weight"
TENSORS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda tensors: tensors.pop(FIRST), "q_proj has no lora_A tensor"),
    "of the head": (lambda t: t.update({HEAD: t[FIRST]}), f"tensor {HEAD!r} belongs to no target module"),
    "turned": (
        lambda t: t.update({FIRST: ("F32", (16, 2), t[FIRST][2])}),
        f"tensor {FIRST!r} has shape [16, 2], the base model and the rank need [2, 16]",
    ),
    "of another rank": (lambda t: t.update(tensors_of(rank=3)), "has shape [3, 16]"),
    "in 16 bits that are not read": (
        lambda t: t.update({FIRST: ("F16", (2, 16), bytes(64))}),
        f"has tensor {FIRST!r} as 'F16'",
    ),
    "not a number": (value(float("nan")), f"tensor {FIRST!r} has values that are not finite"),
    "infinite": (value(float("-inf")), f"tensor {FIRST!r} has values that are not finite"),
}


@pytest.mark.parametrize(("change", "said"), TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_that_cannot_be_served_is_named(
    refused: Callable[..., Imported], change: Callable[[Tensors], object], said: str
) -> None:
    answer = refused(changed(change))
    assert answer.refusal == (400, "import_refused", "file")
    assert said in answer.message


def test_four_gigabytes_that_a_header_declares_are_not_made_room_for(refused: Callable[..., Imported]) -> None:
    header = {FIRST: {"dtype": "F32", "shape": [2**15, 2**15], "data_offsets": [0, 2**32]}}
    written = json.dumps(header).encode()
    refused(tar(adapter() | {WEIGHTS: len(written).to_bytes(8, "little") + written}))


CONFIGS = {
    "another method": ({"peft_type": "IA3"}, "peft_type"),
    "a bias": ({"bias": "all"}, "bias"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is set"),
    "a module that there is not": ({"target_modules": ["c_attn"]}, "'c_attn' names no linear layer"),
    "an expression": ({"target_modules": ".*_proj"}, "target_modules"),
    "a rank that there is no room for": ({"r": 512}, "r: "),
}


@pytest.mark.parametrize(("config", "said"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_asks_for_what_is_not_served(
    refused: Callable[..., Imported], config: dict[str, object], said: str
) -> None:
    assert said in refused(tar(adapter(**config))).message


FIELDS = {
    "no base model": ({"prompt_format": "raw"}, "base_model"),
    "no prompt format": ({"base_model": BASE}, "prompt_format"),
    "another deployment's base model": ({"base_model": "other", "prompt_format": "raw"}, "base_model"),
    "no JSON": ({"base_model": BASE, "prompt_format": "rwa"}, "prompt_format"),
    "half a format": ({"base_model": BASE, "prompt_format": '{"prompt": "a"}'}, "prompt_format"),
    "a suffix of two parts": (RAW | {"suffix": "a:b"}, "suffix"),
    "a field that there is not": (RAW | {"revision": "main"}, "revision"),
}


@pytest.mark.parametrize(("fields", "param"), FIELDS.values(), ids=FIELDS.keys())
def test_what_has_to_be_said_of_an_adapter_without_a_manifest(
    refused: Callable[..., Imported], fields: dict[str, str], param: str
) -> None:
    assert refused(tar(adapter()), fields).refusal[2] == param


def test_templates_that_cannot_be_parsed(refused: Callable[..., Imported]) -> None:
    fields = RAW | {"prompt_format": json.dumps({"prompt": "{{#a}}", "completion": "{{b}}"})}
    assert "prompt format is malformed" in refused(tar(adapter()), fields).message


def manifest_of(harness: ApiHarness, client: TestClient) -> dict[str, object]:
    """Give the manifest that an adapter of this deployment has, and leave no trace of it."""

    name = send(client, tar(adapter())).body["id"]
    with tarfile.open(fileobj=io.BytesIO(client.get(f"/v1/models/{name}/download").content)) as archive:
        read = archive.extractfile(MANIFEST)
        assert read is not None
        manifest: dict[str, object] = json.loads(read.read())
    return manifest


MANIFESTS: dict[str, tuple[dict[str, object], str]] = {
    "another base model": ({"base_model_fingerprint": "1" * 64}, "fingerprint"),
    "another tokenizer": ({"tokenizer_sha256": "1" * 64}, "another tokenizer"),
    "other prompts": ({"prompts": [{"source": "a", "text": "b", "ids": [1]}]}, "training prompt 1"),
    "another shape": ({"lora": {"rank": 8}}, "tells of another shape"),
    "other weights": ({"files": {WEIGHTS: {"sha256": "1" * 64, "bytes": 9}}}, "is not the file"),
    "another config": ({"files": {CONFIG: {"sha256": "1" * 64, "bytes": 9}}}, "is not the file"),
    "another format": ({"format": 2}, "malformed"),
}


@pytest.mark.parametrize(("change", "said"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_does_not_fit(
    client: TestClient, harness: ApiHarness, change: dict[str, object], said: str
) -> None:
    manifest = manifest_of(harness, client)
    files: dict[str, object] = {**manifest.pop("files"), **change.get("files", {})}  # type: ignore[dict-item]
    models = client.get("/v1/models").json()
    before = everything(harness.settings.home)
    wrong = json.dumps(manifest | change | {"files": files}).encode()
    answer = send(client, tar(adapter() | {MANIFEST: wrong}), {})
    assert answer.status == 400
    assert said in answer.message
    assert client.get("/v1/models").json() == models
    assert everything(harness.settings.home) == before


def test_a_prompt_format_beside_a_manifest_contradicts_it(client: TestClient, harness: ApiHarness) -> None:
    manifest = json.dumps(manifest_of(harness, client)).encode()
    answer = send(client, tar(adapter() | {MANIFEST: manifest}), {"prompt_format": "raw"})
    assert answer.refusal == (400, "invalid_parameter", "prompt_format")


def test_files_that_are_none_of_an_adapters(client: TestClient) -> None:
    assert "'other.json' is neither" in send_files(client, adapter() | {"other.json": b"{}"}).message
    assert "there is no adapter_model.safetensors" in send_files(client, {CONFIG: adapter()[CONFIG]}).message
    twice = client.post("/v1/models/import", data=RAW, files=[("file", (CONFIG, b"{}"))] * 2)
    assert "twice" in twice.json()["error"]["message"]
    many = client.post("/v1/models/import", data=RAW, files=[("file", (CONFIG, b"{}"))] * 4)
    assert many.json()["error"]["message"] == "file: the form has more than 3 files"


def test_vllms_limits_are_told_before_it_is_asked(client: TestClient, harness: ApiHarness) -> None:
    harness.settings = harness.settings.model_copy(update={"vllm_urls": {BASE: "http://127.0.0.1:9"}})
    with TestClient(harness.app(), base_url=LOCAL) as on_vllm:
        assert "vLLM" in send(on_vllm, tar(adapter(rank_pattern={"q_proj": 2}))).message
        assert send(on_vllm, tar(adapter())).status == 200
