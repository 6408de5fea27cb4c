"""Machines and their money: intervals, egress, events, and what is known about zones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "cluster_0001"
down_revision = None
branch_labels = ("cluster",)
depends_on = None


def upgrade() -> None:
    """Creates the tables of the cluster."""
    _create_vms()
    op.create_table(
        "cluster_egress",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node", "day", name="pk_cluster_egress"),
    )
    op.create_table(
        "cluster_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_events"),
    )
    op.create_table(
        "cluster_zone_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_zone_state"),
    )


def _create_vms() -> None:
    moments = ("created_at", "started_at", "deadline", "stopped_at", "missing_since", "ended_at")
    op.create_table(
        "cluster_vms",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("zone", sa.String(63), nullable=False),
        sa.Column("machine_type", sa.String(63), nullable=False),
        sa.Column("market", sa.String(7), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("max_run_seconds", sa.Integer(), nullable=True),
        sa.Column("compute_rate", sa.BigInteger(), nullable=True),
        sa.Column("disk_rate", sa.BigInteger(), nullable=True),
        sa.Column("address_rate", sa.BigInteger(), nullable=True),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=True) for name in moments),
        sa.Column("used_by", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cluster_vms"),
    )
    op.create_index("ix_cluster_vms_ended_at", "cluster_vms", ["ended_at"])


def downgrade() -> None:
    """Drops them."""
    for name in ("cluster_zone_state", "cluster_events", "cluster_egress", "cluster_vms"):
        op.drop_table(name)
