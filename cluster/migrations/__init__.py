"""The revisions of the tables that `cluster` owns (the Alembic branch `cluster`)."""
