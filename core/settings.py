"""All settings of all processes: one frozen class, read once at start-up and passed down.

Nothing else in Loramill reads the environment. ``docs/settings.md`` is generated from here.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "LORAMILL_"

CpuLevel = Literal["avx512_bf16", "avx512", "avx2", "neon", "portable"]


class Settings(BaseSettings):
    """Each field is the environment variable ``LORAMILL_<NAME>``. Malformed values stop the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(Path("var"), description="Folder that holds all state of the embedded stack.")
    host: str = Field("127.0.0.1", description="Address the API listens on; beyond loopback an API key is required.")
    port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    api_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Bearer key that every route but /livez and /readyz wants; unset: no authentication.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names, comma separated, by which the API may be asked beside localhost, 127.0.0.1 and [::1]; "
        "unset: any where there is a key, none else. An engine on TCP keeps to it too.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins, comma separated, such as https://app.example.org, whose pages may use the API; "
        "unset: none but our own.",
    )
    max_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="Connections that one address may have open; unset: no limit of its own. Leave it unset behind a "
        "proxy or in a container, where all clients have one address.",
    )
    organization: str = Field(
        "local", pattern=r"^[a-z0-9-]{1,40}$", description="Organisation part of a fine-tuned model's name."
    )

    database_url: str | None = Field(
        None, description="SQLAlchemy URL, sqlite or postgresql+psycopg; unset: loramill.db in the home folder."
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Valkey or Redis for doorbells; without it jobs run too, only later. redis+socket:// works.",
    )
    base_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("smollm2-135m-instruct",),
        description="Names, comma separated, of the base models this deployment trains and serves.",
    )
    engine_urls: dict[str, str] = Field(
        default_factory=dict, description="JSON object: base model name to its engine's URL (http:// or unix://)."
    )
    vllm_urls: dict[str, str] = Field(
        default_factory=dict,
        description="JSON object: base model name to the http:// URL of a vLLM server on a GPU that serves it instead.",
    )
    vllm_max_running: int = Field(
        256, ge=1, description="Requests that the API has under way at a vLLM server; more wait their turn."
    )

    max_upload_bytes: int = Field(512 * 2**20, gt=0, description="Largest file that may be uploaded.")
    max_line_bytes: int = Field(
        2**20, gt=0, description="Longest line of an uploaded file, record of CSV, or row of Parquet."
    )

    train_together: int = Field(
        1,
        ge=1,
        le=32,
        description="Waiting jobs of one base model and training file that a worker trains together, in one trainer, "
        "at most; 1: each by itself. On several GPUs each is.",
    )
    heartbeat_s: float = Field(2.0, gt=0, description="Seconds between a worker's heartbeats for its job.")
    lease_ttl_s: float = Field(
        30.0, gt=0, description="Seconds without a heartbeat after which a job is taken from its worker."
    )
    sweep_s: float = Field(5.0, gt=0, description="Seconds between two looks for lost jobs.")
    poll_s: float = Field(10.0, gt=0, description="Seconds between a worker's own looks for queued jobs.")
    stall_s: float = Field(
        900.0,
        gt=0,
        description="Seconds a trainer may stay silent, or its worker may take to copy or store one thing, before the "
        "attempt is ended.",
    )
    stop_grace_s: float = Field(
        20.0, gt=0, description="Seconds a trainer gets to write its last checkpoint when told to stop."
    )
    max_attempts: int = Field(3, ge=1, description="How often a job is started before a dying trainer fails it.")
    gc_grace_h: float = Field(
        24.0, ge=0, description="Hours that stored bytes stay after the last record that refers to them is gone."
    )
    retention_checkpoints_d: int | None = Field(
        None,
        ge=1,
        description="Days after a job's end that its checkpoints stay, but for those that something needs and the last "
        "one of a job without a model; unset: for ever.",
    )
    retention_events_d: int | None = Field(
        None, ge=1, description="Days after a job's end that its events stay, but for the last; unset: for ever."
    )
    retention_failed_attempts_d: int | None = Field(
        None,
        ge=1,
        description="Days after a job's end that rows and run folders stay of its attempts that failed; unset: for "
        "ever.",
    )
    retention_idempotency_keys_d: int | None = Field(
        None, ge=1, description="Days that jobs' idempotency keys are known; unset: for ever."
    )
    retention_result_files_d: int | None = Field(
        None, ge=1, description="Days that files of jobs' results stay; unset: for ever."
    )
    trainer_niceness: int = Field(
        10, ge=0, le=19, description="Niceness of trainer processes, so that the API stays quick beside them."
    )

    adapter_cache_bytes: int = Field(
        2**30, gt=0, description="Memory for adapters kept in an engine; the least recently used leave first."
    )
    engine_max_batch: int = Field(8, ge=1, le=256, description="Requests that an engine answers in one batch.")
    engine_max_waiting: int = Field(
        256, ge=1, description="Requests that may wait at an engine before it refuses more."
    )
    engine_max_waiting_tokens: int = Field(
        65536, ge=1, description="Prompt tokens that may wait at an engine before it refuses more."
    )
    engine_kv_bytes: int | None = Field(
        None,
        gt=0,
        description="Memory for keys and values of running requests; unset: half of what is free at the start, less "
        "LORAMILL_ENGINE_PREFIX_BYTES, up to two full batches.",
    )
    engine_prefix_bytes: int = Field(
        2**28,
        ge=0,
        description="Memory for keys and values of answered prompts, kept for prompts that begin alike; with "
        "LORAMILL_ENGINE_KV_BYTES unset no more than running requests have.",
    )
    engine_lora_columns: int = Field(
        256, ge=1, description="Sum of the ranks of all adapters that an engine can compute with at once."
    )
    engine_prefill_tokens: int | None = Field(
        None,
        ge=1,
        description="Prompt tokens that a step prefills while rows decode; unset: found by trials.",
    )
    engine_speculation: bool = Field(
        True, description="Draft tokens from the text and verify several in a step; the answers stay the same."
    )
    engine_weights: Literal["model", "int8"] = Field(
        "model", description="How the base model's weights are held: as they are stored, or in 8 bits."
    )
    engine_native: bool = Field(True, description="Compute with compiled kernels where the machine can build them.")
    engine_cpu_level: CpuLevel | None = Field(
        None,
        description="Level of CPU whose instructions the compiled kernels use; unset: the best that the machine has.",
    )
    engine_cuda_graphs: bool = Field(
        True, description="On a GPU, record decode steps and replay them, rather than launch each operation."
    )
    engine_stall_s: float = Field(
        60.0, gt=0, description="Seconds that one step of an engine may take before its process is ended."
    )

    engine_start_s: float = Field(
        600.0,
        gt=0,
        description="Seconds that one phase of an engine's start, such as loading weights, may take before its process "
        "is ended.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log level written."
    )
    log_json: bool = Field(False, description="Write logs as JSON lines rather than for people.")

    @field_validator("base_models", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("base_models")
    @classmethod
    def _require_one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("names no base model; name at least one")
        return names

    @field_validator("vllm_urls")
    @classmethod
    def _refuse_two_engines(cls, urls: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        twice = sorted(urls.keys() & info.data.get("engine_urls", {}).keys())
        if twice:
            raise ValueError(f"{PREFIX}ENGINE_URLS names an engine for {', '.join(twice)} too; keep one of the two")
        for name, url in urls.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"the URL for {name} must begin with http:// or https://")
        return urls

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'loramill.db'}"

    @property
    def store_folder(self) -> Path:
        """Where the content-addressed store keeps its bytes."""
        return self.home.absolute() / "store"

    @property
    def base_models_folder(self) -> Path:
        """Where imported base models lie, and the operator's ``base_models.toml``."""
        return self.home.absolute() / "base-models"

    @property
    def vllm_adapters_folder(self) -> Path:
        """Where adapters lie that a vLLM server reads."""
        return self.home.absolute() / "vllm-adapters"

    @property
    def kernels_folder(self) -> Path:
        """Where engines and trainers keep the kernels that they have compiled."""
        return self.home.absolute() / "kernels"

    @property
    def tuning_folder(self) -> Path:
        """Where an engine remembers what it has found out about this machine by trials."""
        return self.home.absolute() / "tuning"

    @property
    def references_folder(self) -> Path:
        """Where an engine keeps what transformers computes for a base model, unless that lies beside the model."""
        return self.home.absolute() / "references"

    @property
    def runs_folder(self) -> Path:
        """Where trainers work; an attempt's folder is ``<job id>/a<token>``."""
        return self.home.absolute() / "runs"


def unknown_variables(environ: dict[str, str]) -> list[str]:
    """Name each ``LORAMILL_`` variable that no setting reads, with the nearest real name."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    complaints = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            complaints.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return complaints


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        ValueError: a variable is misspelt, or its value is malformed.
    """
    complaints = unknown_variables(dict(os.environ))
    if complaints:
        raise ValueError("; ".join(complaints))
    return Settings()
