"""The model cache as a pure state machine: single rules, then all rules under random events."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ironcliw.errors import (
    ConflictError,
    IroncliwError,
    MemoryBudgetError,
    ModelLoadError,
    RequestError,
    SettingsError,
)
from serve.cache import ModelCache
from serve.cache_states import Instruction, Load, Ready, Refuse, State, Unload

BUDGET = 100
MODELS = ("a", "b", "c", "d", "e")


def bring_in(cache: ModelCache, model: str, size: int, seconds: float, now: float = 0.0) -> None:
    """Load a model that fits, and leave it idle."""
    assert cache.request(now, model, size) == [Load(model)]
    assert cache.loaded(now, model, size, seconds) == [Ready(model)]
    assert cache.release(now, model) == []


def test_a_request_loads_once_and_serves_all_who_wait() -> None:
    cache = ModelCache(BUDGET)
    assert cache.request(0, "a", 40) == [Load("a")]
    assert cache.request(1, "a", 40) == []
    assert cache.used_bytes == 40
    assert cache.loaded(2, "a", 30, 2.0) == [Ready("a")]
    assert (cache.entries["a"].users, cache.used_bytes) == (2, 30)
    assert cache.request(3, "a", 40) == [Ready("a")]


def test_the_lowest_value_is_evicted_first() -> None:
    # equal use: `b` costs the least time a byte, though `a` is the least recently used
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 30, seconds=9.0)
    bring_in(cache, "b", 30, seconds=1.0)
    bring_in(cache, "c", 30, seconds=5.0)
    assert cache.request(0, "d", 30) == [Unload("b")]
    assert cache.unloaded(0, "b") == [Load("d")]


def test_each_ingredient_moves_the_value() -> None:
    cache = ModelCache(BUDGET, half_life=10)
    bring_in(cache, "a", 20, seconds=2.0)
    bring_in(cache, "b", 40, seconds=2.0)
    assert cache.value(0, "a") == pytest.approx(2 * cache.value(0, "b"))
    assert cache.value(10, "a") == pytest.approx(cache.value(0, "a") / 2)
    before = cache.value(10, "a")
    cache.request(10, "a", 20)
    assert cache.value(10, "a") == pytest.approx(before * 3)


def test_one_large_victim_spares_the_small_ones() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 10, seconds=0.1)
    bring_in(cache, "b", 60, seconds=5.0)
    assert cache.request(0, "c", 95) == [Unload("a"), Unload("b")]
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 10, seconds=0.1)
    bring_in(cache, "b", 60, seconds=5.0)
    assert cache.request(0, "c", 90) == [Unload("b")]


def test_a_third_load_waits_for_one_of_two() -> None:
    cache = ModelCache(BUDGET)
    assert [cache.request(0, m, 10) for m in "abc"] == [[Load("a")], [Load("b")], []]
    failure = ModelLoadError("model 'a' is truncated")
    assert cache.load_failed(1, "a", failure) == [Refuse("a", failure), Load("c")]
    assert cache.entries["a"].state is State.ABSENT
    assert cache.entries["a"].last_error == "model 'a' is truncated"


def test_a_load_waits_for_a_model_in_use_and_then_evicts_it() -> None:
    cache = ModelCache(BUDGET, wait_seconds=5)
    cache.request(0, "a", 80)
    cache.loaded(0, "a", 80, 1.0)
    assert cache.request(1, "b", 50) == []
    assert cache.next_deadline() == 6
    assert cache.release(2, "a") == [Unload("a")]
    assert cache.unloaded(3, "a") == [Load("b")]


def test_a_load_that_waited_too_long_is_refused_with_who_holds_the_memory() -> None:
    cache = ModelCache(100 * 2**20, wait_seconds=5)
    cache.request(0, "a", 80 * 2**20)
    cache.loaded(0, "a", 80 * 2**20, 1.0)
    cache.request(1, "b", 50 * 2**20)
    assert cache.tick(5.9) == []
    [refusal] = cache.tick(6)
    assert isinstance(refusal, Refuse)
    with pytest.raises(
        MemoryBudgetError,
        match=r"'b' needs 50.0 MiB .* 100.0 MiB, held by: a \(80.0 MiB, in use\)",
    ):
        raise refusal.error
    assert cache.entries["b"].state is State.ABSENT


def test_a_load_for_which_the_pinned_leave_no_room_is_refused_at_once() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 60, seconds=1.0)
    cache.pin(0, "a")
    [refusal] = cache.request(1, "b", 50)
    assert isinstance(refusal, Refuse)
    with pytest.raises(MemoryBudgetError, match=r"'b' cannot get|held by: a \(.*, pinned\)"):
        raise refusal.error
    [refusal] = cache.request(1, "c", 101)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, MemoryBudgetError)


def test_a_model_larger_than_its_estimate_makes_room_first() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 50, seconds=1.0)
    assert cache.request(0, "b", 40) == [Load("b")]
    assert cache.loaded(1, "b", 70, 1.0) == [Unload("a")]
    assert cache.entries["b"].state is State.LOADING
    assert cache.unloaded(2, "a") == [Ready("b")]
    assert cache.used_bytes == 70


def test_a_model_larger_than_all_it_can_have_is_unloaded_and_refused() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 50, seconds=1.0)
    cache.pin(0, "a")
    cache.request(0, "b", 40)
    assert cache.loaded(1, "b", 70, 1.0) == [Unload("b")]
    [refusal] = cache.unloaded(2, "b")
    assert isinstance(refusal, Refuse)
    with pytest.raises(MemoryBudgetError, match="now that it is measured"):
        raise refusal.error
    [again] = cache.request(3, "b", 40)
    assert isinstance(again, Refuse), "the measured size is remembered, so nothing is loaded"
    assert cache.request(4, "b", 30) == [Load("b")], "other files: the old measure says nothing"


def test_room_that_is_being_made_is_not_made_twice() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 40, seconds=9.0)
    bring_in(cache, "b", 30, seconds=0.1)
    assert [*cache.request(0, "c", 20), *cache.request(0, "d", 10)] == [Load("c"), Load("d")]
    assert cache.loaded(1, "c", 40, 1.0) == [Unload("b")]
    assert cache.loaded(1, "d", 20, 1.0) == []
    assert cache.unloaded(2, "b") == [Ready("c"), Ready("d")]


def test_room_made_for_a_loaded_model_is_not_given_to_another() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 45, seconds=1.0)
    cache.request(0, "b", 20)
    assert cache.loaded(1, "b", 70, 1.0) == [Unload("a")]
    assert cache.request(2, "c", 35) == []
    assert cache.unloaded(3, "a") == [Ready("b")]
    assert cache.release(4, "b") == [Unload("b")]
    assert cache.unloaded(5, "b") == [Load("c")]


def test_unloading_waits_for_the_users_and_later_requests_for_the_next_load() -> None:
    cache = ModelCache(BUDGET)
    cache.request(0, "a", 40)
    cache.loaded(0, "a", 40, 1.0)
    assert cache.unload(1, "a") == []
    assert cache.request(2, "a", 40) == []
    assert cache.release(3, "a") == [Unload("a")]
    assert cache.unloaded(4, "a") == [Load("a")]
    assert not cache.entries["a"].draining


def test_a_load_that_is_to_be_unloaded_leaves_as_soon_as_it_is_in() -> None:
    cache = ModelCache(BUDGET)
    cache.request(0, "a", 40)
    cache.withdraw(1, "a")
    assert cache.unload(1, "a") == []
    assert cache.loaded(2, "a", 40, 1.0) == [Ready("a"), Unload("a")]


def test_a_pinned_model_is_unloaded_by_force_only() -> None:
    cache = ModelCache(BUDGET)
    bring_in(cache, "a", 40, seconds=1.0)
    cache.pin(0, "a")
    with pytest.raises(ConflictError, match="'a': it is pinned"):
        cache.unload(1, "a")
    assert cache.unload(1, "a", force=True) == [Unload("a")]
    with pytest.raises(ConflictError, match="cannot pin 'a': it is unloading"):
        cache.pin(1, "a")


def test_idle_models_leave_after_their_time_to_live() -> None:
    cache = ModelCache(BUDGET, ttl_seconds=10)
    for model in "abc":
        bring_in(cache, model, 20, seconds=1.0)
    cache.set_ttl("b", 4)
    cache.pin(0, "c")
    assert cache.next_deadline() == 4
    assert cache.tick(4) == [Unload("b")]
    assert cache.tick(9.9) == []
    assert cache.tick(10) == [Unload("a")]
    assert cache.tick(99) == []
    cache.unpin(100, "c")
    assert cache.tick(109) == []
    assert cache.tick(110) == [Unload("c")]


def test_a_queued_load_that_nobody_waits_for_is_dropped() -> None:
    cache = ModelCache(BUDGET, max_concurrent_loads=1)
    cache.request(0, "a", 10)
    cache.request(0, "b", 10)
    cache.withdraw(1, "b")
    cache.withdraw(1, "a")
    assert cache.entries["a"].state is State.LOADING
    assert cache.loaded(2, "a", 10, 1.0) == [Ready("a")]
    assert (cache.entries["a"].users, cache.entries["b"].state) == (0, State.ABSENT)


def test_the_next_in_the_queue_goes_on_when_the_first_is_dropped() -> None:
    cache = ModelCache(BUDGET)
    cache.request(0, "a", 80)
    cache.loaded(0, "a", 80, 1.0)
    assert cache.request(1, "b", 50) == []
    assert cache.request(2, "c", 10) == [], "a smaller load does not overtake"
    assert cache.withdraw(3, "b") == [Load("c")]


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="budget_bytes is 0"):
        ModelCache(0)
    with pytest.raises(SettingsError, match="max_concurrent_loads is -1"):
        ModelCache(1, -1)
    with pytest.raises(RequestError, match="ttl of 'a' is 0"):
        ModelCache(1).set_ttl("a", 0)


@dataclass
class Held:
    """What the world outside knows of a model, from the instructions alone."""

    waiting: int = 0
    users: int = 0
    loading: bool = False
    ready: bool = False
    unloading: bool = False
    pinned: bool = False
    in_memory: bool = False
    counted: int = 0
    measured: int = 0


class CacheUnderEvents(RuleBasedStateMachine):
    """Random events; every instruction is checked against the rules as it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cache = ModelCache(BUDGET, ttl_seconds=50, wait_seconds=20)
        self.world = {model: Held() for model in MODELS}

    def carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            held = self.world[instruction.model]
            match instruction:
                case Load(model):
                    assert not (held.loading or held.ready or held.in_memory or held.unloading)
                    held.loading, held.counted = True, self.cache.entries[model].bytes
                case Ready():
                    assert held.in_memory and not held.unloading
                    held.users, held.waiting = held.users + held.waiting, 0
                    held.ready, held.counted = True, held.measured
                case Refuse(error=error):
                    assert isinstance(error, IroncliwError)
                    held.waiting = 0
                case Unload():
                    assert held.in_memory and not held.unloading
                    assert not held.users and not held.pinned
                    held.unloading, held.ready = True, False

    def pick(self, index: int, wanted: list[str]) -> str | None:
        return wanted[index % len(wanted)] if wanted else None

    @rule(model=st.sampled_from(MODELS), estimate=st.sampled_from([5, 30, 45, 60, 110]))
    def request(self, model: str, estimate: int) -> None:
        self.world[model].waiting += 1
        self.carry_out(self.cache.request(self.now, model, estimate))

    @rule(index=st.integers(0, 9))
    def withdraw(self, index: int) -> None:
        if model := self.pick(index, [m for m, h in self.world.items() if h.waiting]):
            self.world[model].waiting -= 1
            self.carry_out(self.cache.withdraw(self.now, model))

    @rule(index=st.integers(0, 9))
    def release(self, index: int) -> None:
        if model := self.pick(index, [m for m, h in self.world.items() if h.users]):
            self.world[model].users -= 1
            self.carry_out(self.cache.release(self.now, model))

    @rule(index=st.integers(0, 9), factor=st.sampled_from([0.5, 1.0, 1.0, 1.5, 3.0]))
    def load_succeeds(self, index: int, factor: float) -> None:
        if model := self.pick(index, [m for m, h in self.world.items() if h.loading]):
            held = self.world[model]
            held.loading, held.in_memory = False, True
            held.measured = int(held.counted * factor)
            self.carry_out(self.cache.loaded(self.now, model, held.measured, 1 + index))

    @rule(index=st.integers(0, 9))
    def load_fails(self, index: int) -> None:
        if model := self.pick(index, [m for m, h in self.world.items() if h.loading]):
            held = self.world[model]
            held.loading, held.counted = False, 0
            self.carry_out(self.cache.load_failed(self.now, model, ModelLoadError("broken")))
            assert held.waiting == 0
            assert self.cache.entries[model].bytes == 0

    @rule(index=st.integers(0, 9))
    def unloading_ends(self, index: int) -> None:
        if model := self.pick(index, [m for m, h in self.world.items() if h.unloading]):
            held = self.world[model]
            held.unloading, held.in_memory, held.counted = False, False, 0
            self.carry_out(self.cache.unloaded(self.now, model))

    @rule(model=st.sampled_from(MODELS))
    def pin(self, model: str) -> None:
        entry = self.cache.entries.get(model)
        if entry is not None and self.world[model].ready and not entry.draining:
            self.world[model].pinned = True
            self.carry_out(self.cache.pin(self.now, model))
        else:
            with pytest.raises(ConflictError, match="cannot pin"):
                self.cache.pin(self.now, model)

    @rule(model=st.sampled_from(MODELS))
    def unpin(self, model: str) -> None:
        self.world[model].pinned = False
        self.carry_out(self.cache.unpin(self.now, model))

    @rule(model=st.sampled_from(MODELS), force=st.booleans())
    def unload(self, model: str, force: bool) -> None:
        if self.world[model].pinned and not force:
            with pytest.raises(ConflictError, match="pinned"):
                self.cache.unload(self.now, model)
            return
        self.world[model].pinned = False
        self.carry_out(self.cache.unload(self.now, model, force))

    @rule(seconds=st.sampled_from([1.0, 15.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.cache.tick(self.now))
        deadline = self.cache.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def within_the_budget(self) -> None:
        assert sum(held.counted for held in self.world.values()) <= BUDGET
        assert self.cache.used_bytes == sum(held.counted for held in self.world.values())

    @invariant()
    def at_most_two_loads(self) -> None:
        assert sum(held.loading for held in self.world.values()) <= 2

    @invariant()
    def the_cache_and_the_world_agree(self) -> None:
        for model, entry in self.cache.entries.items():
            held = self.world[model]
            assert (entry.users, entry.waiting) == (held.users, held.waiting)
            assert entry.pinned == held.pinned
            if entry.state is State.ABSENT:
                assert not (held.waiting or held.in_memory or held.loading or entry.draining)

    def teardown(self) -> None:
        """From wherever the events led, all who wait are answered once work goes on."""
        for _ in range(200):
            if not any(held.waiting for held in self.world.values()):
                return
            for index in range(len(MODELS)):
                self.release(index)
                self.unloading_ends(index)
                self.load_succeeds(index, 1.0)
            self.time_passes(1.0)
        raise AssertionError(f"unanswered: {self.world}")


CacheUnderEvents.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None
)
TestCacheUnderEvents = CacheUnderEvents.TestCase
