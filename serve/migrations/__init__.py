"""The revisions of the tables that `serve` owns (the Alembic branch `serve`)."""
