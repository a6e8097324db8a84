"""How many compiled kernels oneDNN keeps, which decides over a gigabyte of memory."""

import os
from typing import Final

# oneDNN compiles kernels for each size of product and keeps 1024 of them, a gigabyte after some dozen steps. A
# step needs about a hundred, and compiling one takes less than a millisecond.
_KERNELS: Final = "128"


def keep_few_kernels() -> None:
    """Bound them, unless the environment does; in vain once this process has multiplied matrices."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
