"""What the doctor asks of a running deployment's engines: the memory that each takes. Asks the API, not them."""

from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from app.cli.checks.check_result import CheckResult, Status
from app.cli.stack.address import is_ready, openable_url
from core.settings import Settings

MEMORY: Final = "loramill_engine_process_resident_memory_bytes"
WEIGHTS: Final = "loramill_engine_weight_bytes"
_TIMEOUT_S: Final = 10.0
_MB: Final = 10**6


def check_engines(settings: Settings) -> CheckResult:
    """Tell what memory each engine takes, and how much of it are weights."""
    if not is_ready(settings):
        return CheckResult(Status.OK, f"not asked, as no ready API answers on {openable_url(settings)}")
    key = settings.api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    with httpx2.Client(base_url=openable_url(settings), headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:
        said = [f"{name}: {_memory_of(client, name)}" for name in settings.base_models]
    return CheckResult(Status.OK, "; ".join(said))


def _memory_of(client: httpx2.Client, base_model: str) -> str:
    try:
        answer = client.get(f"/metrics/{base_model}")
    except httpx2.TransportError as error:
        return f"the API did not answer ({error})"
    if answer.status_code != httpx2.codes.OK:
        return f"its engine tells nothing (status {answer.status_code})"
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name in (MEMORY, WEIGHTS)
    }
    if MEMORY not in values:  # no /proc to count it from
        return "its memory is not known"
    return f"{values[MEMORY] / _MB:,.0f} MB of memory, {values.get(WEIGHTS, 0.0) / _MB:,.0f} MB of it weights"
