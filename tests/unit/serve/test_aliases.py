"""Aliases: what is kept, what is undone, and how requests are cut between two models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import ConflictError, NotFoundError, RequestError
from ironcliw.schemas.decisions import DecisionRequest
from ironcliw.schemas.generation import ChatCompletionRequest, CompletionRequest
from ironcliw.store import Store
from serve.alias_split import goes_to_canary, request_key
from serve.aliases import ModelAliases

OLD, NEW, THIRD = "tiny:a@1", "tiny:a@2", "tiny:b@1"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


@pytest.fixture
def aliases(url: str) -> Iterator[ModelAliases]:
    with Store(url) as store:
        store.migrate()
        yield ModelAliases(store)


def state(aliases: ModelAliases) -> tuple[str, str | None, float | None]:
    found = aliases.get("chat")
    assert found is not None
    return found.target, found.canary, found.percent


def test_a_canary_is_beside_the_target_until_it_is_promoted(aliases: ModelAliases) -> None:
    aliases.promote("chat", OLD)
    aliases.promote("chat", NEW, 10)
    assert state(aliases) == (OLD, NEW, 10)
    aliases.promote("chat", NEW, 40)
    assert state(aliases) == (OLD, NEW, 40)
    aliases.promote("chat", NEW, 100)
    assert state(aliases) == (NEW, None, None)


def test_rolling_back_ends_a_canary_and_goes_back_to_the_model_before(
    aliases: ModelAliases,
) -> None:
    aliases.promote("chat", OLD)
    aliases.promote("chat", NEW, 10)
    aliases.rollback("chat")
    assert state(aliases) == (OLD, None, None)
    aliases.promote("chat", NEW, 10)
    aliases.promote("chat", NEW)
    aliases.promote("chat", THIRD)
    aliases.rollback("chat")
    assert state(aliases) == (NEW, None, None)
    aliases.rollback("chat")  # not to the canary that came before it
    assert state(aliases) == (OLD, None, None)
    with pytest.raises(ConflictError, match="has stood for tiny:a@1 from the beginning"):
        aliases.rollback("chat")


def test_history_outlives_the_process(aliases: ModelAliases, url: str) -> None:
    aliases.promote("chat", OLD)
    aliases.promote("chat", NEW)
    with Store(url) as store:
        later = ModelAliases(store)
        assert later.get("chat") is None
        later.refresh()
        assert state(later) == (NEW, None, None)
        later.rollback("chat")
    assert state(aliases) == (NEW, None, None)  # as it was at its last look
    aliases.refresh()
    assert state(aliases) == (OLD, None, None)


@pytest.mark.parametrize("percent", [-1, 0, 101])
def test_a_share_that_is_none_is_refused(aliases: ModelAliases, percent: float) -> None:
    aliases.promote("chat", OLD)
    with pytest.raises(RequestError, match="give more than 0 and at most 100"):
        aliases.promote("chat", NEW, percent)


def test_a_share_of_nothing_is_refused(aliases: ModelAliases) -> None:
    with pytest.raises(RequestError, match="stands for nothing yet"):
        aliases.promote("chat", NEW, 5)
    assert aliases.all() == []


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "-a", "x" * 64])
def test_a_name_that_could_be_something_else_is_refused(aliases: ModelAliases, name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an alias"):
        aliases.promote(name, OLD)


def test_an_unknown_alias_is_named_with_the_known_ones(aliases: ModelAliases) -> None:
    aliases.promote("chat", OLD)
    with pytest.raises(NotFoundError, match="no alias 'chats'; known aliases: chat"):
        aliases.rollback("chats")


@given(st.floats(0.5, 99), st.floats(0.5, 99), st.binary(max_size=40))
def test_a_share_that_grows_keeps_whom_it_has(one: float, other: float, key: bytes) -> None:
    less, more = sorted((one, other))
    assert not goes_to_canary("chat", key, less) or goes_to_canary("chat", key, more)


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_the_share_is_about_the_one_asked_for(percent: float) -> None:
    count = sum(goes_to_canary("chat", b"user %d" % user, percent) for user in range(20_000))
    assert abs(count / 200 - percent) < 1.1


def test_two_aliases_cut_the_same_users_otherwise() -> None:
    users = [b"user %d" % user for user in range(200)]
    first, second = ([goes_to_canary(name, u, 50) for u in users] for name in ("a", "b"))
    assert first != second


def chat(*texts: str, **more: object) -> ChatCompletionRequest:
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return ChatCompletionRequest.model_validate({"model": "chat", "messages": messages, **more})


def test_a_conversation_stays_on_its_side() -> None:
    begun, later = chat("be kind", "hello"), chat("be kind", "hello", "hi", "and then?")
    assert request_key(begun) == request_key(later)
    assert request_key(begun) != request_key(chat("be kind", "good day"))


def test_a_user_stays_on_one_side_whatever_is_asked() -> None:
    keys = {request_key(chat("be kind", text, user="ann")) for text in ("hello", "good day")}
    assert len(keys) == 1
    assert keys != {request_key(chat("be kind", "hello", user="bob"))}
    by_safety = request_key(chat("be kind", "hello", safety_identifier="ann"))
    assert by_safety in keys


def test_a_text_decides_where_there_is_no_conversation() -> None:
    def key(prompt: object, **more: object) -> bytes:
        form = {"model": "m", "prompt": prompt, **more}
        return request_key(CompletionRequest.model_validate(form))

    assert key("a", max_tokens=3) == key("a", max_tokens=9) != key("b")
    assert key(["a", "b"]) != key(["a", "c"])
    question = {"type": "predicate", "instructions": "It is late."}
    decision = {"model": "m", "input": "a", "questions": [question]}
    assert request_key(DecisionRequest.model_validate(decision)) == key("a")
