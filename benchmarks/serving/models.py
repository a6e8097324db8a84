"""The base model with Phi-2's widths and few layers: a step on it takes milliseconds on a CPU, not a second.

``python -m benchmarks.serving.models FOLDER`` writes it; the same call gives the same weights.
"""

import sys
from pathlib import Path

from benchmarks.training.models import PhiShape, write_base

LAYERS, VOCABULARY = 4, 2048
SHAPE = PhiShape(layers=LAYERS, width=2560, heads=32, rotary_share=0.4, vocabulary=VOCABULARY)


def main() -> None:
    """Write it into the folder that the command line names."""
    write_base(Path(sys.argv[1]), SHAPE, seed=0)


if __name__ == "__main__":
    main()
