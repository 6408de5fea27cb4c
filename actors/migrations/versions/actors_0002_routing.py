"""What a policy tells of its decisions, and what a policy that learns keeps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "actors_0002"
down_revision = "actors_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column that earlier rows leave empty, and a table."""
    op.add_column("actors_decisions", sa.Column("details", sa.JSON(), nullable=True))
    op.create_table(
        "actors_router_states",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_actors_router_states"),
    )


def downgrade() -> None:
    """Drops both, with what is in them."""
    op.drop_table("actors_router_states")
    op.drop_column("actors_decisions", "details")
