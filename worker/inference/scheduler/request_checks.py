"""Admission checks: refuse, before it is queued, what could never be answered here, and name the field at fault.

What the fields may be by themselves, ``core.serving.generation`` has seen to; how many requests may wait is
``core.serving.admission``'s.
"""

from collections.abc import Iterable, Sequence

from core.errors import AdapterInvalid, InvalidParameter, PromptTooLong
from core.serving.generation import SamplingParams
from worker.inference.kv_cache.slots import KvPool
from worker.inference.lora.adapter import Adapter
from worker.inference.lora.bank import LoraBank
from worker.models.serving import EngineModel


def check_sampling(sampling: SamplingParams, served: EngineModel) -> None:
    """Raise InvalidParameter for an empty stop sequence and for ids that are no tokens."""
    if "" in sampling.stop:
        raise InvalidParameter("stop", "a stop sequence cannot be empty")
    _check_ids("stop_token_ids", sampling.stop_token_ids, served)
    _check_ids("logit_bias", sampling.logit_bias, served)


def check_prompt_ids(ids: Sequence[int], served: EngineModel) -> None:
    """Raise InvalidParameter for no ids, and for ids that are no tokens."""
    if not ids:
        raise InvalidParameter("prompt", "it has no tokens; give at least one id")
    _check_ids("prompt", ids, served)


def check_length(prompt_tokens: int, max_tokens: int, served: EngineModel) -> None:
    """Raise PromptTooLong where prompt and completion are longer than the context."""
    if prompt_tokens + max_tokens > served.context_tokens:
        raise PromptTooLong(prompt_tokens, max_tokens, served.context_tokens)


def check_room(prompt_tokens: int, max_tokens: int, kv: KvPool) -> None:
    """Raise InvalidParameter where a request alone needs more keys and values than the engine keeps of all."""
    needed = kv.bytes_for(prompt_tokens + max_tokens)
    if needed > kv.limit_bytes:
        raise InvalidParameter(
            "max_tokens",
            f"the prompt's {prompt_tokens} tokens and these {max_tokens} need {needed:,} bytes of keys and values, and "
            f"this engine keeps {kv.limit_bytes:,}; ask for fewer, shorten the prompt, "
            "or raise LORAMILL_ENGINE_KV_BYTES",
        )


def check_adapter(adapter: Adapter, bank: LoraBank) -> None:
    """Raise AdapterInvalid where there can never be columns for an adapter."""
    if not bank.fits(adapter):
        raise AdapterInvalid(
            adapter.digest,
            f"its rank is {adapter.rank} and this engine has {bank.columns} columns for all adapters; "
            "raise LORAMILL_ENGINE_LORA_COLUMNS",
        )


def _check_ids(param: str, ids: Iterable[int], served: EngineModel) -> None:
    vocab_size = served.tokenizer.vocab_size
    unknown = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
    if unknown is not None:
        raise InvalidParameter(param, f"{unknown} is not a token of this model, which has {vocab_size}")
