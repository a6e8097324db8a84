"""Which adapters a vLLM server holds: loaded under their digest when first asked for, again after its restart.

A name is ``loramill-<digest>`` and its folder never changes, so whatever the server keeps under a name is right
for ever. vLLM itself moves adapters between disk, memory and GPU.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.engines.vllm.adapters import AdapterFiles
from app.engines.vllm.server import Refusal, VllmServer
from core.errors import AdapterInvalid, EngineUnavailable, ServiceError

logger = logging.getLogger(__name__)

PREFIX: Final = "loramill-"
_HOW: Final = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


@dataclass(frozen=True)
class Served:
    """What the server says of its base model: the name to ask for, and the tokens of its context."""

    name: str
    context_tokens: int


@dataclass
class _Residency:
    """What is known of one adapter at the server, and who uses it."""

    load: asyncio.Task[None] | None = None  # None: not loaded, as far as is known
    uses: int = 0
    leaves: bool = False  # to be unloaded after its last use
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # loading and unloading never overlap


class Residence:
    """The server's models as they are known here; used from one event loop."""

    def __init__(self, base_model: str, base_folder: Path, server: VllmServer, files: AdapterFiles) -> None:
        self._base_model = base_model
        self._base_folder = base_folder
        self._server = server
        self._files = files
        self._served: Served | None = None
        self._listed: frozenset[str] = frozenset()  # the server's names when it was last asked
        self._entries: dict[str, _Residency] = {}
        self._unloads: set[asyncio.Task[None]] = set()

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of the adapters that the server listed when it was last asked, or that were loaded since."""
        listed = {name.removeprefix(PREFIX) for name in self._listed if name.startswith(PREFIX)}
        return tuple(sorted(listed | {digest for digest, entry in self._entries.items() if _is_loaded(entry)}))

    @property
    def loading_count(self) -> int:
        return sum(entry.load is not None and not entry.load.done() for entry in self._entries.values())

    async def served(self) -> Served:
        """Give what the server serves; it is asked on first contact, and again after it was lost.

        Raises:
            EngineUnavailable: it cannot be reached, or serves something else.
        """
        return self._served or await self.look()

    async def look(self) -> Served:
        """Ask the server what it holds, and forget what it no longer has; raises as `served`."""
        loads = {digest: entry.load for digest, entry in self._entries.items() if _is_loaded(entry)}
        cards = await self._server.list_models()
        base = next((card for card in cards if card.parent is None), None)
        if base is None or base.max_model_len is None:
            raise EngineUnavailable(self._base_model, "it lists no base model")
        if base.root is None or Path(base.root).resolve() != self._base_folder.resolve():
            raise EngineUnavailable(
                self._base_model, f"it serves {base.root}; start it with --model {self._base_folder}"
            )
        self._listed = frozenset(card.id for card in cards if card.parent is not None)
        for digest, load in loads.items():
            entry = self._entries[digest]
            # one that was loaded after the question cannot be in the answer
            if entry.load is load and name_of(digest) not in self._listed:
                entry.load = None
        self._served = Served(base.id, base.max_model_len)
        return self._served

    @contextmanager
    def using(self, digest: str) -> Iterator[None]:
        """Keep an adapter from being unloaded."""
        entry = self._entries.setdefault(digest, _Residency())
        entry.uses += 1
        entry.leaves = False
        try:
            yield
        finally:
            entry.uses -= 1
            if entry.uses == 0 and entry.leaves:
                self._begin_unload(digest)

    async def ensure(self, digest: str) -> None:
        """Load an adapter that is in use, unless the server has it; many callers cause one load.

        Raises:
            AdapterInvalid, AdapterMismatch: it does not verify, or the server refuses it.
            EngineUnavailable: the server cannot be reached, or loads no adapters.
        """
        await self.served()  # after a loss this finds out what is left
        entry = self._entries[digest]
        if entry.load is None or (entry.load.done() and not _is_loaded(entry)):  # a failed one is tried again
            entry.load = asyncio.create_task(self._load(digest))
        # shielded: that one caller leaves must not end the load for the others
        await asyncio.shield(entry.load)

    def lose(self) -> None:
        """Take the server for one that was started anew: it is asked again what it has before it is used."""
        self._served = None

    async def unload(self, digest: str) -> None:
        """Forget an adapter, at once or after its last use.

        Raises:
            EngineUnavailable: the server cannot be reached.
        """
        entry = self._entries.setdefault(digest, _Residency())
        entry.leaves = True
        if entry.uses == 0:
            await self._unload(digest)

    async def close(self) -> None:
        """End the loads and unloads that are under way."""
        tasks = [*self._unloads, *(entry.load for entry in self._entries.values() if entry.load is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, digest: str) -> None:
        async with self._entries[digest].turn:
            folder = await asyncio.to_thread(self._files.place, digest)
            if name_of(digest) in self._listed:
                return
            try:
                await self._server.load_adapter(name_of(digest), folder)
            except Refusal as refusal:
                # another process, or a request whose answer got lost, was first: the same name is the same bytes
                if "has already been loaded" not in refusal.message:
                    raise self._error_of(refusal, digest, folder) from refusal
        logger.info("adapter %s loaded by vLLM", digest[:12])

    def _error_of(self, refusal: Refusal, digest: str, folder: Path) -> ServiceError:
        if not refusal.has_route or "LoRA is not enabled" in refusal.message:
            return EngineUnavailable(self._base_model, f"it loads no adapters; {_HOW}")
        if refusal.status == 404:
            return EngineUnavailable(
                self._base_model, f"it does not see {folder}; give it the home folder at the same path"
            )
        return AdapterInvalid(digest, f"vLLM does not load it: {refusal.message}")

    def _begin_unload(self, digest: str) -> None:
        task = asyncio.create_task(self._unload_later(digest))
        self._unloads.add(task)
        task.add_done_callback(self._unloads.discard)

    async def _unload_later(self, digest: str) -> None:
        try:
            await self._unload(digest)
        except EngineUnavailable as error:
            # nobody waits for it; the name stays at the server until that is started anew
            logger.warning("adapter %s was not unloaded: %s", digest[:12], error)

    async def _unload(self, digest: str) -> None:
        entry = self._entries[digest]
        async with entry.turn:
            if not entry.leaves:
                return  # a request came meanwhile
            entry.load = None
            self._listed -= {name_of(digest)}
            try:
                await self._server.unload_adapter(name_of(digest))
            except Refusal as refusal:
                if refusal.status != 404:  # not loaded is unloaded
                    raise EngineUnavailable(
                        self._base_model, f"it did not unload an adapter: {refusal.message}"
                    ) from refusal
            await asyncio.to_thread(self._files.remove, digest)
        logger.info("adapter %s unloaded from vLLM", digest[:12])


def name_of(digest: str) -> str:
    """Give the name under which an adapter is loaded."""
    return PREFIX + digest


def _is_loaded(entry: _Residency) -> bool:
    load = entry.load
    return load is not None and load.done() and not load.cancelled() and load.exception() is None
