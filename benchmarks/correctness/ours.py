"""Our engine as a contestant: answers mixes over a field, each row sent when it is due."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.correctness.field import Field, Outcome
from benchmarks.correctness.mixes import Mix, MixRow
from core.base_models.registry import read_imported
from core.errors import ServiceError
from core.serving.generation import Engine, GenerationRequest, SamplingParams
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.model.runner_building import build_runner
from worker.jobs.blob_transfer import store_adapter
from worker.models.serving import open_engine_model


class OurEngine:
    """An engine of ours (or what stands for one), with the digests of its adapters by their numbers."""

    def __init__(self, engine: Engine, digests: Mapping[int, str], prompts: Sequence[Sequence[int]]) -> None:
        self._engine = engine
        self._digests = digests
        self._prompts = prompts
        self._numbers = itertools.count()

    async def answer(self, mix: Mix) -> list[Outcome]:
        """Send every row when it is due; rows that leave close their stream."""
        return list(await asyncio.gather(*(self._row(row) for row in mix)))

    async def _row(self, row: MixRow) -> Outcome:
        if row.late_s:
            await asyncio.sleep(row.late_s)
        request = GenerationRequest(
            id=f"mix-{next(self._numbers)}",
            prompt=tuple(self._prompts[row.prompt]),
            adapter=None if row.adapter is None else self._digests[row.adapter],
            sampling=SamplingParams(max_tokens=row.max_tokens, ignore_end=True),
        )
        ids: list[int] = []
        try:
            async with aclosing(self._engine.generate(request)) as deltas:
                async for delta in deltas:
                    ids += [token.id for token in delta.tokens]
                    if row.leaves_after is not None and len(ids) >= row.leaves_after:
                        break
        except ServiceError as error:
            return error
        return ids


@asynccontextmanager
async def our_engine(field: Field, home: Path, configuration: Mapping[str, Any]) -> AsyncIterator[OurEngine]:
    """Run an engine over the field in float32."""
    settings = Settings(home=home, engine_kv_bytes=2**29, **configuration)
    blobs = LocalBlobStore(settings.store_folder)
    digests = {number: store_adapter(blobs, folder).sha256 for number, folder in field.folders.items()}
    served = open_engine_model(field.base, settings.references_folder, dtype="float32")
    name = read_imported(field.base).name
    runner = build_runner(served, settings)
    engine = LocalEngine(name, served, blobs, settings, EngineMetrics(), on_death=lambda: None, runner=runner)
    engine.start()
    try:
        yield OurEngine(engine, digests, field.prompts)
    finally:
        await engine.close()
