"""Aliases of models: every change of one is a row, kept so that it can be undone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "serve_0002"
down_revision = "serve_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table `model_aliases`."""
    op.create_table(
        "model_aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("canary", sa.String(255), nullable=True),
        sa.Column("percent", sa.Float(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("percent > 0 AND percent < 100", name="ck_model_aliases_percent"),
        sa.PrimaryKeyConstraint("id", name="pk_model_aliases"),
    )
    op.create_index("ix_model_aliases_alias", "model_aliases", ["alias"])


def downgrade() -> None:
    """Drops the table `model_aliases`."""
    op.drop_table("model_aliases")
