"""`loramill doctor`: checks of this machine and its set-up, each with a fixed id and a remedy.

Loads no model library and changes nothing.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import typer

from app.cli.base_models import find_damage
from app.cli.checks.check_result import CheckResult, Status
from app.cli.checks.deep_checks import DEEP_CHECKS
from app.cli.checks.engine_checks import check_engines
from app.cli.columns import align
from app.cli.stack.address import is_ready, openable_url
from app.cli.stack.preparation import refuse_contradictions, refuse_taken_port
from core.base_models.registry import Registry, folder_of
from core.errors import ServiceError
from core.process.gpu import VISIBLE, expects_gpu
from core.settings import PREFIX, Settings
from core.store.revisions import check_schema

ROOT = Path(__file__).resolve().parents[3]
OLDEST_PYTHON = (3, 11)
GIB = 2**30
_GPU_TIMEOUT_S = 120.0  # torch takes seconds to load, and the driver of an idle machine wakes slowly
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # x86, x86, ARM


def report(settings: Settings, as_json: bool, *, deep: bool = False) -> bool:
    """Run and print all checks, with ``deep`` those that read everything too; tell whether none failed."""
    checks = CHECKS | DEEP_CHECKS if deep else CHECKS
    findings = {name: check(settings) for name, check in checks.items()}
    if as_json:
        typer.echo(json.dumps([{"id": name, **asdict(finding)} for name, finding in findings.items()], indent=2))
    else:
        rows = [(finding.status.value, name, _line(finding)) for name, finding in findings.items()]
        typer.echo(align(rows))
    return all(finding.status is not Status.FAIL for finding in findings.values())


def _line(finding: CheckResult) -> str:
    return finding.found + (f" → {finding.remedy}" if finding.remedy else "")


def check_python(settings: Settings) -> CheckResult:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return CheckResult(Status.FAIL, found, f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return CheckResult(Status.OK, found)


def check_packages(settings: Settings) -> CheckResult:
    """Installed packages against what Loramill needs, and the versions against those it was tested with."""
    missing, other, count = [], [], 0
    tested = _tested_versions()
    for requirement in importlib.metadata.requires("loramill") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        count += 1
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if tested.get(name.lower(), version) != version:
            other.append(f"{name} {version} (tested: {tested[name.lower()]})")
    install = "pip install --constraint constraints.txt ."
    if missing:
        return CheckResult(Status.FAIL, f"missing: {', '.join(missing)}", install)
    if other:
        return CheckResult(Status.WARNING, f"other versions than tested: {', '.join(other)}", install)
    return CheckResult(Status.OK, f"{count} packages")


def _tested_versions() -> dict[str, str]:
    constraints = ROOT / "constraints.txt"  # absent in an installed wheel
    lines = constraints.read_text().splitlines() if constraints.exists() else []
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pairs}


def check_torch(settings: Settings) -> CheckResult:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return CheckResult(
            Status.WARNING,
            "not installed: this installation can run the API only",
            "pip install --constraint constraints.txt '.[engine]'",
        )
    if not expects_gpu(os.environ):
        return CheckResult(Status.OK, version)
    if version.endswith("+cpu"):
        return CheckResult(
            Status.WARNING, f"{version}, which cannot use this machine's GPU", "install a CUDA build of torch"
        )
    return _try_gpu(version)


def _try_gpu(version: str) -> CheckResult:
    """Have torch start CUDA, in a process of its own: it is not loaded here."""
    command = [sys.executable, "-c", "import torch; torch.cuda.init(); print(torch.cuda.get_device_name())"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        found = f"no answer in {_GPU_TIMEOUT_S:.0f} s"
    else:
        if tried.returncode == 0:
            return CheckResult(Status.OK, f"{version}, {tried.stdout.strip()}")
        found = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
    return CheckResult(
        Status.WARNING,
        f"{version} cannot use this machine's GPU, so jobs wait and answers come from the CPU: {found}",
        f"mend the driver, or set {VISIBLE}=-1 to train on the CPU",
    )


def check_cpu(settings: Settings) -> CheckResult:
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count()
    flags = _cpu_flags() & BF16_FLAGS
    if flags:
        return CheckResult(Status.OK, f"{cores} cores, {', '.join(sorted(flags))}")
    return CheckResult(
        Status.WARNING,
        f"{cores} cores without bfloat16 arithmetic, so models are computed in float32",
        "nothing to mend; a CPU with AVX512-BF16 or AMX, or a GPU, is faster",
    )


def _cpu_flags() -> frozenset[str]:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def check_memory(settings: Settings) -> CheckResult:
    available = psutil.virtual_memory().available
    found = f"{available / GIB:.1f} GiB available"
    if available < 3 * GIB:
        return CheckResult(Status.WARNING, found, "close other programs; the built-in base model wants about 3 GiB")
    return CheckResult(Status.OK, found)


def check_disk(settings: Settings) -> CheckResult:
    free = shutil.disk_usage(_nearest_existing(settings.home)).free
    found = f"{free / GIB:.1f} GiB free for {settings.home.absolute()}"
    remedy = f"free some, or set {PREFIX}HOME to a larger disk"
    if free < GIB:
        return CheckResult(Status.FAIL, found, remedy)
    return CheckResult(Status.WARNING, found, remedy) if free < 5 * GIB else CheckResult(Status.OK, found)


def check_home(settings: Settings) -> CheckResult:
    folder = _nearest_existing(settings.home)
    if not folder.is_dir():
        return CheckResult(Status.FAIL, f"{folder} is no folder", f"set {PREFIX}HOME to one")
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = f"let user {os.getuid()} write there, or set {PREFIX}HOME"
        return CheckResult(Status.FAIL, f"{folder} cannot be written (owner {folder.stat().st_uid})", remedy)
    made = settings.home.exists()
    return CheckResult(Status.OK, f"{settings.home.absolute()}{'' if made else ', made when first needed'}")


def _nearest_existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def check_port(settings: Settings) -> CheckResult:
    if is_ready(settings):
        return CheckResult(Status.OK, f"a ready API answers on {openable_url(settings)}")
    try:
        refuse_contradictions(settings)
        refuse_taken_port(settings)
    except ServiceError as error:
        return CheckResult(Status.FAIL, "the API cannot listen", str(error))
    return CheckResult(Status.OK, f"{settings.host}, port {settings.port} is free")


def check_database(settings: Settings) -> CheckResult:
    if settings.database_url is None and not (settings.home.absolute() / "loramill.db").exists():
        return CheckResult(Status.OK, "SQLite, made by `loramill up` or `loramill migrate`")
    try:
        check_schema(settings.database)
    except ServiceError as error:
        return CheckResult(Status.FAIL, "the database cannot be used", str(error))
    return CheckResult(Status.OK, "reachable, tables up to date")


def check_base_models(settings: Settings) -> CheckResult:
    """The files of the base models that are served, against their fingerprints: reads every byte."""
    try:
        registry = Registry.load(settings.base_models_folder)
        for name in settings.base_models:
            registry.get(name)
    except ServiceError as error:
        return CheckResult(Status.FAIL, f"{PREFIX}BASE_MODELS or base_models.toml is wrong", str(error))
    missing = [name for name in settings.base_models if not folder_of(settings.base_models_folder, name).exists()]
    problems = [
        f"{name}: {problem}"
        for name in settings.base_models
        if name not in missing and (problem := find_damage(settings, name))
    ]
    if problems:
        return CheckResult(Status.FAIL, f"{len(problems)} damaged", "; ".join(problems))
    if missing:
        names = " ".join(missing)
        return CheckResult(Status.WARNING, f"not imported: {names}", f"run `loramill base-models import {names}`")
    return CheckResult(Status.OK, f"verified: {', '.join(settings.base_models)}")


# the ids are part of the command's interface
CHECKS: dict[str, Callable[[Settings], CheckResult]] = {
    "python": check_python,
    "packages": check_packages,
    "torch": check_torch,
    "cpu": check_cpu,
    "memory": check_memory,
    "disk": check_disk,
    "home": check_home,
    "port": check_port,
    "database": check_database,
    "base-models": check_base_models,
    "engines": check_engines,
}
