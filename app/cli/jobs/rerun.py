"""`loramill rerun`: makes a job again, waits for its end, and says whether the weights are the same bits."""

import json
from enum import Enum
from typing import Any

import typer

from app.cli.client import Client
from app.cli.jobs.waiting import await_success


class RerunEnd(Enum):
    """Whether the weights are the same bits."""

    SAME = "same"
    OTHER = "other"  # or it cannot be told


def run_rerun(client: Client, job_id: str, *, as_json: bool) -> RerunEnd:
    """Make a job again and say what came of it.

    Raises:
        StartRefused: it cannot be made again, or the new job did not succeed.
    """
    again = client.rerun(job_id)
    typer.echo(f"job {again['id']} makes {job_id} again", err=True)
    again = await_success(client, again)
    verdict = again["rerun"]
    if as_json:
        typer.echo(json.dumps({"job": again["id"], "model": again["fine_tuned_model"]} | verdict, indent=2))
    else:
        typer.echo(_sentence(again["fine_tuned_model"], verdict))
    return RerunEnd.SAME if verdict["same_weights"] else RerunEnd.OTHER


def _sentence(model: str, verdict: dict[str, Any]) -> str:
    if verdict["same_weights"] is None:
        return f"{model}: whether its weights are the same bits cannot be told, as those of {verdict['of']} are gone"
    if verdict["same_weights"]:
        return f"{model}: its weights are the same bits as those of {verdict['of']}"
    reasons = [f"  {one['name']} was {one['other']}, is {one['this']}" for one in verdict["may_be_why"]]
    told = f"{model}: its weights are not the same bits as those of {verdict['of']}"
    return "\n".join([f"{told}; what may be why:" if reasons else f"{told}; nothing that is known differs", *reasons])
