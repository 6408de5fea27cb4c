"""The revisions of the tables that `actors` owns (the Alembic branch `actors`)."""
