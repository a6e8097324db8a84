"""Alembic's environment and the schema's revisions; `core.store.migrate` runs them."""
