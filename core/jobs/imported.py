"""What is known of an adapter that came from elsewhere: the specification of an import.

Who may be imported, and how it is verified, is the API's matter.
"""

from typing import Literal

from core.jobs.spec import LoraSpec
from core.values import Frozen

# Whether prompts are known to be fed as in training: by prompts of it that its manifest has, as every adapter that is
# trained here does, or by what was said of it alone.
Checked = Literal["verified", "unverified"]


class ImportSpec(Frozen):
    """Where an adapter came from. ``lora`` None: it has a shape that no job trains further."""

    base_model: str
    base_model_fingerprint: str
    filename: str  # as it was sent
    rendering: Checked
    lora: LoraSpec | None
