"""The trainer: one process that turns a run folder into an adapter. It knows no database, queue or HTTP."""
