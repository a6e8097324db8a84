"""`loramill manifest`: a job's birth certificate as text, or as the API gives it."""

import json
from collections.abc import Iterator
from typing import Any

import typer

from app.cli.client import Client
from app.cli.columns import align


def run_manifest(client: Client, job_id: str, *, as_json: bool) -> None:
    """Print a job's manifest.

    Raises:
        StartRefused: there is no such job, or the API does not answer.
    """
    manifest = client.manifest(job_id)
    if as_json:
        typer.echo(json.dumps(manifest, ensure_ascii=False, indent=2))
        return
    typer.echo(align(list(_facts(manifest))))
    rows = [
        (name, json.dumps(setting["value"], ensure_ascii=False), setting["origin"], setting["why"] or "")
        for name, setting in manifest["settings"].items()
    ]
    typer.echo(f"\n{align([('setting', 'value', 'origin', 'why'), *rows])}")
    for stint in manifest["stints"] or ():
        found = ", ".join(f"{name} {value}" for name, value in stint["environment"].items())
        typer.echo(f"\nfrom step {stint['from_step']} on {_known(stint['host'])} ({_known(stint['system'])}): {found}")


def _facts(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    data, base, adapter = manifest["data"], manifest["base_model"], manifest["adapter"]
    yield "job", f"{manifest['id']}, {manifest['status']}"
    if adapter is not None:
        yield "model", adapter["name"]
        yield "weights", f"sha256 {_known(adapter['weights_sha256'])}, after step {_known(adapter['step'])}"
    if manifest["results"] is not None:
        yield "trained on", manifest["results"]["trained_on"]
    for role in ("training_file", "validation_file"):
        if data[role] is not None:
            yield role, f"{data[role]['id']}, {data[role]['examples']:,} examples, sha256 {data[role]['sha256']}"
    yield "tokens fed", f"sha256 {_known((data['rendered'] or {}).get('sha256'))}"
    yield "order", f"seed {data['order']['seed']}, version {_known(data['order']['version'])} of the rule"
    yield "base model", f"{base['name']}, fingerprint {_known(base['fingerprint'])}"
    yield "tokenizer", f"sha256 {_known(base['tokenizer_sha256'])}"
    for role, parent in manifest["parents"].items():
        if parent is not None:
            yield role, ", ".join(f"{name} {_known(value)}" for name, value in parent.items())


def _known(value: object) -> str:
    return "not recorded" if value is None else str(value)
