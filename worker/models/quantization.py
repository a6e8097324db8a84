"""A base model in 4 bits: what transformers is told, and where it cannot be done.

The kernels are those of bitsandbytes, for CUDA GPUs, and the project's tests run on CPUs: what is tested is the
refusal and the configuration. Loading and training in 4 bits themselves have not been run by the project's tests.
"""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from core.errors import QuantizationUnavailable
from core.jobs.spec import Quantization


def quantized(kind: Quantization, dtype: torch.dtype) -> dict[str, Any]:
    """Give what ``from_pretrained`` takes to keep the linear layers beside the head in 4 bits, on the GPU.

    As in QLoRA (2305.14314): NormalFloat, the block constants quantized again, products in ``dtype``.

    Raises:
        QuantizationUnavailable: there is no CUDA GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise QuantizationUnavailable(
            f'quantization "{kind}" needs a CUDA GPU, and this machine has none; leave it out'
        )
    if find_spec("bitsandbytes") is None:
        raise QuantizationUnavailable(
            f'quantization "{kind}" needs bitsandbytes, which is not installed where the trainer runs; '
            "install the extra (pip install 'loramill[quantized]'), or leave it out"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}
