"""Messages on the way between processes: what is kept, and what is refused."""

from __future__ import annotations

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.messages import (
    Message,
    Priority,
    checked_name,
    from_parcel,
    new_id,
    priority_of,
    to_parcel,
)
from actors.agents.packing import Packed, pack, unpack
from ironcliw.errors import RequestError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(values, st.sampled_from(list(Priority)), st.none() | st.floats(0.001, 1e6))
def test_a_message_survives_the_way(body: object, priority: Priority, left: float | None) -> None:
    sent = Message(
        new_id(),
        "agent",
        body,
        "capability",
        "sender",
        "topic",
        priority,
        None if left is None else 100.0 + left,
        "key",
        3,
        True,
    )
    parcel = pickle.loads(pickle.dumps(to_parcel(sent, 100.0, wants_reply=True)))
    found = from_parcel(parcel, 5000.0)
    for name in Message.__slots__:
        if name != "deadline":
            assert getattr(found, name) == getattr(sent, name)
    if left is None:
        assert found.deadline is None
    else:
        # the clocks have nothing in common, the time that is left has
        assert found.deadline == pytest.approx(5000.0 + left)


def test_a_deadline_that_passed_before_the_way_is_past_after_it() -> None:
    late = to_parcel(Message(new_id(), "agent", deadline=5.0), 9.0, wants_reply=False)
    assert from_parcel(late, 2.0).expired(2.0)


@given(values)
def test_any_value_is_packed_and_unpacked(value: object) -> None:
    assert unpack(pickle.loads(pickle.dumps(pack(value, "it")))) == value


def test_a_value_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(RequestError, match=r"the body .* sent to another process: lock .*pickled"):
        pack(threading.Lock(), "the body of a message")


def test_a_value_whose_class_is_not_here() -> None:
    with pytest.raises(RequestError, match=r"ModuleNotFoundError.*importable on both sides"):
        unpack(Packed(b"cno_such_module\nThing\n."))


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("given_", ["high", "HIGH", 1, Priority.HIGH])
def test_priorities_by_name_and_number(given_: object) -> None:
    assert priority_of(given_) is Priority.HIGH  # type: ignore[arg-type]


@pytest.mark.parametrize("given_", ["urgent", 7, -1])
def test_no_such_priority(given_: object) -> None:
    with pytest.raises(RequestError, match=r"is no priority; give one of critical, high, normal"):
        priority_of(given_)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 129, 5, "\u00fc"])
def test_bad_names(name: object) -> None:
    with pytest.raises(RequestError, match="cannot name an agent: use up to 128 letters"):
        checked_name(name, "an agent")  # type: ignore[arg-type]
