"""Wire type of an imported model."""

from app.models.schemas import ModelOut


class ImportedModelOut(ModelOut):
    """``ignored_files``: what was sent beside the adapter and read by nobody."""

    ignored_files: list[str]
