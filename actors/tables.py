"""Tables of the state store that hold workflows, messages, agents and decisions.

Times are seconds since 1970 in UTC, as float64: state machines take `now` as such a number, and a
float64 comes back bit for bit from both databases, so that a replay computes with what was stored.

What changes stands before what is large: SQLite overwrites a row in place when its size stays, and
leaves the pages alone that hold the rest.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from ironcliw.store import metadata

OPTIONAL_JSON = JSON(none_as_null=True)
"""None becomes SQL's NULL; in a plain JSON column it is the JSON value null."""

# SQLite counts only a column of the type INTEGER by itself
_COUNTER = BigInteger().with_variant(Integer, "sqlite")

actors_leases = Table(
    "actors_leases",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("epoch", BigInteger, nullable=False),  # one more at each take-over
    Column("until", Double, nullable=False),  # after it anybody may take over
    Column("holder", String(255), nullable=False),  # for people; empty: released
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Double, nullable=False),
)

actors_workflows = Table(
    "actors_workflows",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("next_seq", Integer, nullable=False),  # of the event that is appended next
    Column("updated_at", Double, nullable=False),
    Column("finished_at", Double),  # NULL: open, an orchestrator has to look after it
    Column("status", String(31), nullable=False),
    Column("name", String(255), nullable=False),
    Column("owner", String(255), nullable=False),  # name of the API key, or "local"
    Column("key", String(255)),  # given with the submission, so that it can be repeated
    Column("priority", Integer, nullable=False),  # 0 is the most urgent
    Column("deadline", Double),
    Column("created_at", Double, nullable=False),
    Column("error", OPTIONAL_JSON),
    Column("definition", JSON, nullable=False),
    Column("inputs", JSON, nullable=False),
    UniqueConstraint("owner", "key", name="uq_actors_workflows_owner_key"),
    Index("ix_actors_workflows_finished_at", "finished_at"),
    Index("ix_actors_workflows_created_at", "created_at"),
)

# no foreign key: whoever appends has just changed the workflow's row in the same transaction
actors_workflow_events = Table(
    "actors_workflow_events",
    metadata,
    Column("workflow_id", String(63), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", String(31), nullable=False),
    Column("step", String(255)),
    Column("item", Integer),  # index in a fan-out
    Column("attempt", Integer),
    Column("data", JSON, nullable=False),
)

actors_messages = Table(
    "actors_messages",
    metadata,
    Column("seq", _COUNTER, primary_key=True),  # the order in which they were committed
    Column("id", String(63), nullable=False, unique=True),
    Column("status", String(15), nullable=False),  # see `actors.message_records`
    Column("attempts", Integer, nullable=False),
    Column("finished_at", Double),
    Column("priority", Integer, nullable=False),  # 0 is the most urgent
    Column("recipient", String(255), nullable=False),
    Column("sender", String(255)),
    Column("topic", String(255)),
    Column("correlation", String(63)),
    Column("key", String(255)),
    Column("deadline", Double),
    Column("created_at", Double, nullable=False),
    Column("error", Text),
    Column("body", JSON, nullable=False),
    UniqueConstraint("recipient", "key", name="uq_actors_messages_recipient_key"),
    Index("ix_actors_messages_recipient", "recipient", "status"),
    Index("ix_actors_messages_status", "status", "finished_at"),
)

actors_agents = Table(
    "actors_agents",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("class_name", String(255), nullable=False),  # "module:Class"
    Column("status", String(31), nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("node", String(255)),  # where it runs; NULL: nowhere now
    Column("place", String(15), nullable=False),
    Column("isolated", Boolean, nullable=False),
    Column("registered_at", Double, nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("options", JSON, nullable=False),
    Column("arguments", JSON, nullable=False),
)

actors_snapshots = Table(
    "actors_snapshots",
    metadata,
    Column("agent", String(255), primary_key=True),
    Column("at", Double, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

actors_decisions = Table(
    "actors_decisions",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("at", Double, nullable=False),
    Column("workflow_id", String(63)),
    Column("step", String(255)),
    Column("attempt", Integer),
    Column("policy", String(255), nullable=False),
    Column("chosen", Integer, nullable=False),  # index in `options`
    Column("propensity", Double, nullable=False),  # with which it was chosen, 0 to 1
    Column("features", JSON, nullable=False),
    Column("options", JSON, nullable=False),
    Column("masks", JSON, nullable=False),
    Column("outcome", OPTIONAL_JSON),  # NULL: not known yet
    Column("details", OPTIONAL_JSON),  # NULL: the policy told none, or an earlier release wrote it
    Index("ix_actors_decisions_at", "at"),
)

actors_router_states = Table(
    "actors_router_states",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, nullable=False),  # whoever writes says which one it has read
    Column("updated_at", Double, nullable=False),
    Column("state", JSON, nullable=False),
)
