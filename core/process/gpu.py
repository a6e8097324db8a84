"""Whether a process is to compute on an NVIDIA GPU: one was given to it, and nobody hid it. Torch-free.

Whether torch can use it is ``worker.models.precision``'s to find out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

# of the driver; a container has it where it was given a GPU
DEVICE: Final = Path("/dev/nvidiactl")
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_NONE: Final = frozenset({"", "-1", "NoDevFiles"})  # as CUDA is told to show none


def expects_gpu(environ: Mapping[str, str]) -> bool:
    """Tell whether there is a GPU and it was not hidden, which is how a process is asked to compute on the CPU."""
    return DEVICE.exists() and environ.get(VISIBLE, "0").strip() not in _NONE
