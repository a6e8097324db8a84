"""A deployment on each database."""

from tests.core.store.references.conftest import deployment as deployment
from tests.core.store.references.conftest import folder as folder
