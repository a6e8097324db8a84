"""What Loramill remembers: rows in a database (the only place with SQLAlchemy) and content-addressed bytes."""
