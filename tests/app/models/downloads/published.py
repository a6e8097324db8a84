"""An adapter in a harness' store and database, whose weights no model would take."""

from pathlib import Path

from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from tests.app.conftest import ApiHarness
from tests.core.store.references.deployment import StoreInUse, write_adapter

WEIGHT_BYTES = bytes(range(256)) * 5 + b"the end"


def publish_adapter(harness: ApiHarness, folder: Path) -> str:
    """Publish an adapter as a worker does, from a folder that is made; give the model's name."""
    store = StoreInUse(harness.database, harness.blobs)
    return store.publish(store.claimed(), write_adapter(folder, WEIGHT_BYTES))


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CONFIG, MANIFEST, WEIGHTS)}
