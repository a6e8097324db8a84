"""What Linux' kernel says of this process's memory on huge pages."""

from pathlib import Path

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def gives_huge_pages() -> bool:
    """Tell whether the kernel gives them to who asks."""
    return _SETTING.exists() and "[never]" not in _SETTING.read_text()


def on_huge_pages() -> int:
    """Give the bytes that lie on them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages"))
