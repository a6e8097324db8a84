"""In which number types a machine is measured: ours and every rival in the one that is fastest on it.

Decided by the product's own probe, which multiplies small matrices in both, and by a larger one where that leaves
both: a type that is hopeless in them is not tried at full size, where it would take minutes.
``python -m benchmarks.host.number_types`` prints the choice.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from benchmarks.host.processes import run_module

NumberType = Literal["bfloat16", "float32"]
BOTH: Final[tuple[NumberType, ...]] = ("bfloat16", "float32")
HOPELESS: Final = 3.0  # times as long as the other type: nobody would choose it
LARGER_ROWS, LARGER_WIDTH = 512, 2048  # two seconds where bfloat16 is emulated; the ratio of small ones is less


@dataclass(frozen=True)
class NumberTypes:
    """What a machine computes in.

    Attributes:
        fastest: what "auto" is on it, for jobs and engines.
        bf16_speedup: how many times as fast as in float32 it multiplies matrices in bfloat16; None: a GPU, on which
            neither is hopeless.
    """

    fastest: NumberType
    bf16_speedup: float | None

    @property
    def hopeless(self) -> NumberType | None:
        """Give the type that is left out of all that is measured at full size."""
        if self.bf16_speedup is None or 1 / HOPELESS <= self.bf16_speedup <= HOPELESS:
            return None
        slower: NumberType = "bfloat16" if self.bf16_speedup < 1 else "float32"
        return None if slower == self.fastest else slower

    @property
    def measured(self) -> tuple[NumberType, ...]:
        """List the types that are worth measuring, the fastest first."""
        slower: NumberType = "float32" if self.fastest == "bfloat16" else "bfloat16"
        return (self.fastest,) if self.hopeless == slower else (self.fastest, slower)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"hopeless": self.hopeless}


def probe_number_types() -> NumberTypes:
    """Time products in both types, small ones first."""
    import torch  # not above: what only asks for the choice needs none

    from worker.models import precision

    fastest: NumberType = "bfloat16" if precision.resolve_dtype("auto") == torch.bfloat16 else "float32"
    if torch.cuda.is_available():
        return NumberTypes(fastest, None)
    types = NumberTypes(fastest, precision.bf16_speedup())
    return types if types.hopeless else NumberTypes(fastest, precision.bf16_speedup(LARGER_ROWS, LARGER_WIDTH))


def ask_number_types() -> NumberTypes:
    """Have a process of its own choose, so that this one stays without torch."""
    found = json.loads(run_module("benchmarks.host.number_types").splitlines()[-1])
    return NumberTypes(found["fastest"], found["bf16_speedup"])


if __name__ == "__main__":
    print(json.dumps(probe_number_types().as_dict()))
