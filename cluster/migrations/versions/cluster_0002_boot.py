"""The boot in which a node's meter was read: a later one begins at zero."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "cluster_0002"
down_revision = "cluster_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; of what was read before, the boot is not known."""
    column = sa.Column("boot", sa.String(64), nullable=False, server_default="")
    op.add_column("cluster_egress", column)


def downgrade() -> None:
    """Drops it."""
    with op.batch_alter_table("cluster_egress") as table:
        table.drop_column("boot")
