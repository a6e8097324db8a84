"""Asks an engine to load an adapter that was just published, so that its first request does not wait for it.

Best effort, in a thread of its own: a job has succeeded whether or not an engine is there.
"""

import threading
from collections.abc import Mapping
from typing import Final

import httpx2
import structlog

# The engine goes on loading when nobody waits for its answer any more.
_TIMEOUT_S: Final = 10.0
_CONNECT_S: Final = 2.0
_REASON_CHARS: Final = 500

_log = structlog.stdlib.get_logger(__name__)


def prefetch_in_background(
    engine_urls: Mapping[str, str], base_model: str, adapter: str, *, timeout_s: float = _TIMEOUT_S
) -> threading.Thread | None:
    """Begin to ask the base model's engine; give the thread that does, None where no engine is configured.

    ``adapter`` is the digest of its manifest. URLs are ``http://host:port`` or ``unix:///path/of/socket``.
    """
    url = engine_urls.get(base_model)
    if url is None:
        return None
    # daemon: a worker that stops does not wait for an engine
    thread = threading.Thread(
        target=_prefetch, args=(url, base_model, adapter, timeout_s), name="prefetch", daemon=True
    )
    thread.start()
    return thread


def _prefetch(url: str, base_model: str, adapter: str, timeout_s: float) -> None:
    log = _log.bind(base_model=base_model, adapter=adapter[:12])
    path = url.removeprefix("unix://")
    over_socket = path != url
    try:
        # no environment: a proxy must not stand between
        with (
            httpx2.HTTPTransport(uds=path if over_socket else None, trust_env=False) as transport,
            httpx2.Client(
                base_url="http://engine" if over_socket else url,
                transport=transport,
                timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
                trust_env=False,
            ) as client,
        ):
            response = client.post("/warm", json={"adapter": adapter})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        log.warning("adapter not prefetched; its first request will load it", reason=str(error) or type(error).__name__)
        return
    if response.status_code == 200:
        log.info("adapter prefetched")
    else:
        log.warning("adapter not prefetched", status=response.status_code, reason=response.text[:_REASON_CHARS])
