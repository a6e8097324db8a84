"""Products on ARM's NEON, compiled for it and emulated here; `apt-get install g++-aarch64-linux-gnu qemu-user`."""

import math
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pad

from worker.inference.native.panels import GROUP, KINDS, Panels
from worker.native import compiling

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in (COMPILER, EMULATOR)
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of the kernels and one product of them."""
    program = tmp_path_factory.mktemp("neon") / "driver"
    sources = [compiling.ENGINE.folder / "product.cpp", Path(__file__).with_name("product_driver.cpp")]
    folders = ["-I", str(compiling.ENGINE.folder), "-I", str(compiling.SHARED)]
    # compiling it thoroughly takes longer than emulating what is not
    command = [COMPILER, *compiling.FLAGS, "-O1", "-static", "-Wall", *folders, *map(str, sources)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def test_products_are_torchs(driver: Path) -> None:
    width = int(subprocess.run([EMULATOR, driver], check=True, capture_output=True).stdout)
    torch.manual_seed(0)
    for kind, rows, (inputs, outputs) in product(KINDS, (1, 3, 4, 8, 17), ((42, 37), (1286, 16))):
        x, bias, added = torch.randn(rows, inputs), torch.randn(outputs), torch.randn(rows, outputs)
        weight = (40 * torch.randn(outputs, inputs)).to(kind)
        scale = torch.rand(math.ceil(inputs / GROUP), outputs)
        panels = Panels(weight, bias, scale if kind == torch.int8 else None, dtype=torch.float32, width=width)
        scaled = weight.float() * scale.T.repeat_interleave(GROUP, dim=1)[:, :inputs]
        padded = [pad(of, (0, -outputs % width)) for of in (scale, bias)]
        numbers = b"".join(of.view(torch.uint8).numpy().tobytes() for of in (x, panels.panels, *padded, added))
        sizes = map(str, (rows, inputs, outputs, KINDS[kind]))
        done = subprocess.run([EMULATOR, driver, *sizes], input=numbers, check=True, capture_output=True)
        got = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).view(rows, outputs)
        wanted = x @ scaled.T + bias + added
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
