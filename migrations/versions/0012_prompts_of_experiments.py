"""Keep with an experiment's plan how many different prompts are judged by.

Of plans that were made before it was counted only the number of rows is known, which is the most that it can be.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_EXPERIMENTS = sa.table("experiments", sa.column("id", sa.String(64)), sa.column("plan", sa.JSON()))


def upgrade() -> None:
    _change(lambda plan: {"different_rows": plan["rows"]["judge"]} | plan)


def downgrade() -> None:
    _change(lambda plan: {name: value for name, value in plan.items() if name != "different_rows"})


def _change(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    connection = op.get_bind()
    for experiment_id, plan in connection.execute(sa.select(_EXPERIMENTS.c.id, _EXPERIMENTS.c.plan)).all():
        update = sa.update(_EXPERIMENTS).where(_EXPERIMENTS.c.id == experiment_id)
        connection.execute(update.values(plan=changed(plan)))
