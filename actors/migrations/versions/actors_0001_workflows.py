"""Workflows and their events, durable messages, agents, leases, decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "actors_0001"
down_revision = None
branch_labels = ("actors",)
depends_on = None


def upgrade() -> None:
    """Creates the tables of the actors."""
    _create_leases()
    _create_workflows()
    _create_messages()
    _create_agents()
    _create_decisions()


def _create_leases() -> None:
    op.create_table(
        "actors_leases",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_actors_leases"),
    )


def _create_workflows() -> None:
    op.create_table(
        "actors_workflows",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("next_seq", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("status", sa.String(31), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_actors_workflows"),
        sa.UniqueConstraint("owner", "key", name="uq_actors_workflows_owner_key"),
    )
    for column in ("finished_at", "created_at"):
        op.create_index(f"ix_actors_workflows_{column}", "actors_workflows", [column])
    op.create_table(
        "actors_workflow_events",
        sa.Column("workflow_id", sa.String(63), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(31), nullable=False),
        sa.Column("step", sa.String(255), nullable=True),
        sa.Column("item", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "seq", name="pk_actors_workflow_events"),
    )


def _create_messages() -> None:
    counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "actors_messages",
        sa.Column("seq", counter, nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("status", sa.String(15), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("recipient", sa.String(255), nullable=False),
        sa.Column("sender", sa.String(255), nullable=True),
        sa.Column("topic", sa.String(255), nullable=True),
        sa.Column("correlation", sa.String(63), nullable=True),
        sa.Column("key", sa.String(255), nullable=True),
        sa.Column("deadline", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_actors_messages"),
        sa.UniqueConstraint("id", name="uq_actors_messages_id"),
        sa.UniqueConstraint("recipient", "key", name="uq_actors_messages_recipient_key"),
    )
    op.create_index("ix_actors_messages_recipient", "actors_messages", ["recipient", "status"])
    op.create_index("ix_actors_messages_status", "actors_messages", ["status", "finished_at"])


def _create_agents() -> None:
    op.create_table(
        "actors_agents",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("class_name", sa.String(255), nullable=False),
        sa.Column("status", sa.String(31), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(255), nullable=True),
        sa.Column("place", sa.String(15), nullable=False),
        sa.Column("isolated", sa.Boolean(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_actors_agents"),
    )
    op.create_table(
        "actors_snapshots",
        sa.Column("agent", sa.String(255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("agent", name="pk_actors_snapshots"),
    )


def _create_decisions() -> None:
    op.create_table(
        "actors_decisions",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("workflow_id", sa.String(63), nullable=True),
        sa.Column("step", sa.String(255), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("policy", sa.String(255), nullable=False),
        sa.Column("chosen", sa.Integer(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("masks", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_actors_decisions"),
    )
    op.create_index("ix_actors_decisions_at", "actors_decisions", ["at"])


def downgrade() -> None:
    """Drops them, rows included."""
    for name in (
        "actors_decisions",
        "actors_snapshots",
        "actors_agents",
        "actors_messages",
        "actors_workflow_events",
        "actors_workflows",
        "actors_leases",
    ):
        op.drop_table(name)
