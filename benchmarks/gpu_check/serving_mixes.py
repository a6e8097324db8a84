"""Does every row of every mix get its own adapter's answer from a whole engine on this device?

As ``benchmarks.serve_correctness`` asks it, with recorded steps and without. The engine needs libraries that its model
alone does not.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.correctness.field import Field, judge_all, make_field
from benchmarks.correctness.mixes import Mix, Tally, power
from benchmarks.correctness.ours import our_engine
from benchmarks.gpu_check.models import own_folder, write_families
from benchmarks.gpu_check.parts import Note, Setting, require

MIXES, FEW_MIXES = 200, 4  # of all models together; the second in miniature
CONFIGURATION: Final[dict[str, Any]] = {"engine_max_batch": 8, "engine_native": False}


def judge_mixes(setting: Setting, note: Note) -> None:
    """Send random mixes of base rows and up to 16 adapters to our engine, and hold the answers against PEFT alone."""
    bases = dict(list(write_families(setting).items())[:2])
    count = (FEW_MIXES if setting.is_miniature else MIXES) // len(bases)
    prompts, tokens = (3, 4) if setting.is_miniature else (8, 8)
    for seed, (name, base) in enumerate(bases.items()):
        folder = own_folder(setting)
        field = make_field(base, folder / "adapters", seed=seed, prompts=prompts, longest=60, tokens=tokens)
        note(f"{name}, share of mixed-up rows that would be seen", power(field.expected, len(field.prompts)))
        mixes = field.mixes(seed, count)
        for graphs in (True, False) if setting.on_gpu else (False,):
            tally = asyncio.run(_judge(field, folder / f"graphs-{graphs}", mixes, graphs))
            counted = tally.as_dict()
            note(f"{name}, {'with' if graphs else 'without'} graphs", counted)
            require(
                not tally.wrong and not tally.failed,
                f"{name}: of {tally.rows} rows {tally.wrong} are wrong and {tally.failed} failed: {tally.examples[:1]}",
            )


async def _judge(field: Field, home: Path, mixes: Sequence[Mix], graphs: bool) -> Tally:
    tally = Tally()
    async with our_engine(field, home, CONFIGURATION | {"engine_cuda_graphs": graphs}) as ours:
        await judge_all(ours, field, mixes, tally)
    return tally
