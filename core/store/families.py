"""The versions of a family of models: of one organisation and suffix. Which model has which is a column of its own."""

from core.store.db import Session, insert_into
from core.store.tables import ModelFamilyRecord


def next_version(session: Session, organization: str, suffix: str) -> int:
    """Give the next version of a family, to whom nobody else gets it; one whose transaction fails is given again."""
    first = insert_into(session, ModelFamilyRecord).values(organization=organization, suffix=suffix, newest=1)
    # the row is locked until the transaction ends, so that numbers come in the order of the commits
    numbered = first.on_conflict_do_update(
        index_elements=[ModelFamilyRecord.organization, ModelFamilyRecord.suffix],
        set_={"newest": ModelFamilyRecord.newest + 1},
    ).returning(ModelFamilyRecord.newest)
    number: int = session.scalars(numbered).one()
    return number
