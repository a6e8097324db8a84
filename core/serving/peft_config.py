"""PEFT's adapter_config.json: which layers an adapter changes, and by what rank and scale each.

Anything in it that would change what the adapter computes and is not read here is refused. Knows no tensors.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.errors import AdapterInvalid
from core.serving.adapter_format import CONFIG
from core.serving.strict_json import parse_object, shown

CONFIG_LIMIT_BYTES: Final = 2**16
MAX_RANK: Final = 256
MAX_ALPHA: Final = 2.0**16
MAX_PATTERNS: Final = 1024
MAX_PATTERN_CHARS: Final = 256

_LAYER_TREE: Final = r".*\."  # how PEFT itself begins a pattern for "wherever in the model"
_PATTERN: Final = re.compile(rf"(?P<lead>\^|{re.escape(_LAYER_TREE)})?(?P<atoms>(?:[A-Za-z0-9_.\-]|\\[.\-])+)")


class LayerPattern:
    """A key of ``rank_pattern`` or ``alpha_pattern``, matched as PEFT's ``get_pattern_key`` matches it.

    PEFT takes each key for a regular expression and asks ``(.*\\.)?(key)$`` of a layer's name. An expression from
    a file can take exponential time, so only those are read in which each character stands for one: names,
    ``.``, ``\\.``, ``\\-``, after ``^`` or ``.*\\.`` at most. Such a key matches the end of a name, or does not.

    Raises:
        ValueError: the key is another expression.
    """

    def __init__(self, key: str) -> None:
        parsed = _PATTERN.fullmatch(key)
        if parsed is None:
            raise ValueError(
                f"{shown(key)} is a regular expression that this engine does not match; name the layer, or its end"
            )
        self._lead = parsed["lead"]
        self._atoms = re.compile(parsed["atoms"])
        self._chars = len(parsed["atoms"].replace("\\", ""))

    def matches(self, layer: str) -> bool:
        """Tell whether the key means this layer, in time that its length bounds."""
        start = len(layer) - self._chars
        if start == 0:
            begins = self._lead != _LAYER_TREE
        else:
            begins = start > 0 and self._lead != "^" and layer[start - 1] == "."
        return begins and self._atoms.fullmatch(layer, start) is not None


def _check_pattern(key: str) -> str:
    LayerPattern(key)
    return key


_Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
_Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA, allow_inf_nan=False)]
_Key = Annotated[str, Field(max_length=MAX_PATTERN_CHARS), AfterValidator(_check_pattern)]


class LoraConfig(BaseModel):
    """The fields that decide what an adapter computes.

    Any other field must be off (null, false or empty), or be one of ``_INERT``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    peft_type: str = Field(pattern="^LORA$")
    r: _Rank
    lora_alpha: _Alpha
    target_modules: list[str] = Field(min_length=1, max_length=1024)
    bias: str = Field(pattern="^none$")
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[_Key, _Rank] = Field(default_factory=dict, max_length=MAX_PATTERNS)
    alpha_pattern: dict[_Key, _Alpha] = Field(default_factory=dict, max_length=MAX_PATTERNS)


# What these say about training or about the file's origin changes nothing in what the adapter computes.
_INERT: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",  # read only with use_qalora, which must be off
        "revision",
        "task_type",
    }
)
# Other initialisations change the base model's own weights, which are not in an adapter's files.
_PLAIN_INITIALISATIONS: Final = (True, False, "gaussian", "orthogonal")


def parse_config(digest: str, content: bytes) -> LoraConfig:
    """Read the file of the adapter with this digest.

    Raises:
        AdapterInvalid: it is malformed, or asks for what is not implemented; names the key.
    """
    try:
        config = LoraConfig.model_validate(parse_object(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = shown(".".join(map(str, first["loc"]))).strip("'")
        raise AdapterInvalid(digest, f"{CONFIG}: {place}: {first['msg']}") from error
    except ValueError as error:
        raise AdapterInvalid(digest, f"{CONFIG} is not JSON: {error}") from error
    for key, value in (config.model_extra or {}).items():
        if not _is_neutral(key, value):
            raise AdapterInvalid(digest, f"{CONFIG}: {shown(key)} is set, which this engine does not implement")
    return config


def resolve_layers(digest: str, config: LoraConfig, layers: Iterable[str]) -> dict[str, tuple[int, float]]:
    """Give rank and scale of each layer that the adapter changes, among the base model's.

    Target modules are resolved as PEFT does: a whole name, or its last parts. Patterns are, too: the first that
    matches counts. PEFT ignores one that matches nothing; here it is refused, because it was meant to matter.

    Raises:
        AdapterInvalid: a target module or a pattern means no layer.
    """
    names = list(layers)
    chosen: set[str] = set()
    for target in config.target_modules:
        matched = {name for name in names if name == target or name.endswith(f".{target}")}
        if not matched:
            problem = f"target module {shown(target)} names no linear layer of the base model"
            raise AdapterInvalid(digest, f"{CONFIG}: {problem}")
        chosen |= matched
    targets = sorted(chosen)
    ranks = _by_pattern(digest, "rank_pattern", config.rank_pattern, targets)
    alphas = _by_pattern(digest, "alpha_pattern", config.alpha_pattern, targets)
    return {
        layer: (
            rank := int(ranks.get(layer, config.r)),
            alphas.get(layer, config.lora_alpha) / (math.sqrt(rank) if config.use_rslora else rank),
        )
        for layer in targets
    }


def _by_pattern(digest: str, field: str, patterns: Mapping[str, float], targets: list[str]) -> dict[str, float]:
    """Give each layer the value of the first pattern that matches it."""
    chosen: dict[str, float] = {}
    for key, value in patterns.items():
        pattern = LayerPattern(key)
        matched = [layer for layer in targets if pattern.matches(layer)]
        if not matched:
            raise AdapterInvalid(digest, f"{CONFIG}: {field}: {shown(key)} matches none of the adapter's layers")
        for layer in matched:
            chosen.setdefault(layer, value)
    return chosen


def _is_neutral(key: str, value: Any) -> bool:
    if key == "init_lora_weights":
        # by type, too: 1 equals True, and a list equals nothing but may not be hashed
        return any(type(value) is type(plain) and value == plain for plain in _PLAIN_INITIALISATIONS)
    return key in _INERT or not value
