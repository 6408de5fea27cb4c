"""Which models stay in memory: a state machine without I/O, threads or a clock.

    ABSENT -> QUEUED -> LOADING -> READY -> UNLOADING -> ABSENT

Events come in as method calls with the time `now` in seconds, instructions come out as a list, and
`serve.residency` carries them out. A READY model with `users` above 0 is in use.

Rules:
- The bytes of all that is LOADING (estimated until measured), READY or UNLOADING never pass the
  budget. A model that measures more than its reservation is granted once room for it is made.
- A model in use is never unloaded, a pinned one only when its owner forces it.
- Loads start in the order of their first request, at most `max_concurrent_loads` at a time. A
  smaller load never overtakes the first in the queue, so a large model cannot starve.
- A load that the pinned models leave no room for is refused at once. One that would fit once
  models in use fall idle waits for that, at most `wait_seconds`, and is refused then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from ironcliw.errors import (
    ConflictError,
    IroncliwError,
    MemoryBudgetError,
    RequestError,
    SettingsError,
)
from serve.cache_states import Entry, Instruction, Load, Ready, Refuse, State, Unload

MEBIBYTE = 2**20


class ModelCache:
    """Decides what is loaded, unloaded, granted and refused within a budget of bytes.

    To evict a model frees its bytes and costs its reload time if it is used again. With uses
    arriving as Poisson processes, the next use is of model i with likelihood rate_i / sum of rates,
    so a freed byte has the expected cost

        value = reload_seconds * likelihood_of_next_use / bytes

    and the lowest value goes first. The rate is a count of uses that halves every `half_life`
    seconds; the factors common to all models (sum of rates, half-life) do not change the order and
    are left out. A relative is GreedyDual-Size (Cao and Irani, "Cost-Aware WWW Proxy Caching
    Algorithms", USITS 1997), H = cost / size with ageing by inflation; here the decay does the
    ageing, and how often a model is used counts as well.

    Args:
        budget_bytes: What all models together may hold.
        max_concurrent_loads: Loads under way at a time.
        ttl_seconds: Idle time after which a model is unloaded, None for never; `set_ttl` overrides
            it for one model.
        half_life: Seconds in which the weight of a past use halves.
        wait_seconds: How long a load may wait for models in use to fall idle.

    Raises:
        SettingsError: A number is not above 0.
    """

    def __init__(
        self,
        budget_bytes: int,
        max_concurrent_loads: int = 2,
        ttl_seconds: float | None = None,
        *,
        half_life: float = 300.0,
        wait_seconds: float = 30.0,
    ) -> None:
        limits = (budget_bytes, max_concurrent_loads, ttl_seconds, half_life, wait_seconds)
        names = ("budget_bytes", "max_concurrent_loads", "ttl_seconds", "half_life", "wait_seconds")
        for name, value in zip(names, limits, strict=True):
            if value is not None and value <= 0:
                raise SettingsError(f"{name} is {value}; give a number above 0", param=name)
        self.budget_bytes = budget_bytes
        self.max_concurrent_loads = max_concurrent_loads
        self.ttl_seconds = ttl_seconds
        self.half_life = half_life
        self.wait_seconds = wait_seconds
        self._entries: dict[str, Entry] = {}
        self._queue: deque[Entry] = deque()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every model ever asked for, by name."""
        return self._entries

    @property
    def used_bytes(self) -> int:
        """Bytes loading (reserved), ready or being unloaded; at most the budget."""
        return sum(entry.bytes for entry in self._entries.values())

    def value(self, now: float, model: str) -> float:
        """Expected reload seconds a byte (up to a common factor): the lowest is evicted first."""
        entry = self._entries[model]
        return entry.reload_seconds * entry.score_at(now, self.half_life) / max(1, entry.bytes)

    def request(self, now: float, model: str, estimate: int) -> list[Instruction]:
        """Somebody wants to use a model; they wait until `Ready` or `Refuse` names it.

        Args:
            now: Seconds.
            model: Its name.
            estimate: Bytes it will hold, from its files. What an earlier load measured is taken
                instead, until the estimate changes.
        """
        entry = self._entries.setdefault(model, Entry(model, score_time=now))
        entry.score, entry.score_time = entry.score_at(now, self.half_life) + 1.0, now
        if estimate != entry.estimate:
            entry.estimate, entry.measured = estimate, 0
        entry.waiting += 1
        if entry.state is State.READY and not entry.draining:
            return self._grant(entry)
        if entry.state is State.ABSENT:
            self._enqueue(entry)
            return self._advance(now)
        return []

    def withdraw(self, now: float, model: str) -> list[Instruction]:
        """One who still waits has gone.

        A load under way goes on; one not begun is dropped when the last who waits for it goes.
        """
        entry = self._entries[model]
        assert entry.waiting > 0, f"nobody waits for {model}"
        entry.waiting -= 1
        if entry.waiting or entry.state is not State.QUEUED:
            return []
        self._leave(entry)
        return self._advance(now)

    def release(self, now: float, model: str) -> list[Instruction]:
        """One use has ended."""
        entry = self._entries[model]
        assert entry.users > 0, f"nobody uses {model}"
        entry.users -= 1
        if entry.users:
            return []
        entry.idle_since = now
        if entry.draining:
            return [self._evict(entry)]
        return self._advance(now) if self._queue else []

    def loaded(self, now: float, model: str, measured: int, seconds: float) -> list[Instruction]:
        """A load has succeeded: it holds `measured` bytes and took `seconds`."""
        entry = self._entries[model]
        assert entry.state is State.LOADING, f"{model} is {entry.state}"
        entry.loads += 1
        entry.reload_seconds = (entry.reload_seconds + seconds) / 2 if entry.loads > 1 else seconds
        entry.measured, entry.last_error, entry.idle_since = measured, None, now
        entry.excess = max(0, measured - entry.bytes)
        if not entry.excess:
            entry.bytes = measured
            return self._settled(entry) + self._advance(now)
        owed = sum(other.excess for other in self._entries.values())
        victims = self._victims(now, owed - self._free() - self._leaving())
        if victims is not None:
            return [*map(self._evict, victims), *self._advance(now)]
        entry.refusal = self._no_room(entry, "has no room, now that it is measured, in")
        return [self._evict(entry), *self._advance(now)]

    def load_failed(self, now: float, model: str, error: IroncliwError) -> list[Instruction]:
        """A load has failed: all who wait get `error`, the next request tries again."""
        entry = self._entries[model]
        assert entry.state is State.LOADING, f"{model} is {entry.state}"
        return [self._refuse(entry, error), *self._advance(now)]

    def unloaded(self, now: float, model: str) -> list[Instruction]:
        """An engine has been freed."""
        entry = self._entries[model]
        assert entry.state is State.UNLOADING, f"{model} is {entry.state}"
        refused: list[Instruction] = []
        if entry.refusal is not None:
            refused.append(self._refuse(entry, entry.refusal))
        self._leave(entry)
        if entry.waiting:
            self._enqueue(entry)
        return refused + self._advance(now)

    def pin(self, now: float, model: str) -> list[Instruction]:
        """Keep a loaded model until it is unpinned, or unloaded by force.

        Raises:
            ConflictError: It is not loaded, or is about to be unloaded.
        """
        entry = self._entries.get(model)
        if entry is None or entry.state is not State.READY or entry.draining:
            state = entry.state if entry else State.ABSENT
            asked = ", soon to be unloaded" if entry and entry.draining else ""
            raise ConflictError(f"cannot pin {model!r}: it is {state}{asked}; load it with a pin")
        entry.pinned = True
        return self._advance(now)

    def unpin(self, now: float, model: str) -> list[Instruction]:
        """Let a model be evicted again; nothing happens to one that is not pinned."""
        entry = self._entries.get(model)
        if entry is None or not entry.pinned:
            return []
        entry.pinned, entry.idle_since = False, now
        return self._advance(now)

    def set_ttl(self, model: str, ttl: float | None) -> None:
        """Unload a model after `ttl` idle seconds; None returns to the cache's own time-to-live.

        Raises:
            RequestError: `ttl` is not above 0.
        """
        if ttl is not None and ttl <= 0:
            raise RequestError(f"ttl of {model!r} is {ttl}; give seconds above 0", param="ttl")
        self._entries.setdefault(model, Entry(model)).ttl = ttl

    def unload(self, now: float, model: str, force: bool = False) -> list[Instruction]:
        """Unload once idle; the entry is `draining` until then.

        Those who wait for a load already queued or begun are served first.

        Raises:
            ConflictError: The model is pinned and `force` is not given.
        """
        entry = self._entries.get(model)
        if entry is None or entry.state is State.ABSENT:
            return []
        if entry.pinned and not force:
            raise ConflictError(
                f"cannot unload {model!r}: it is pinned; unpin it or force the unloading"
            )
        entry.pinned, entry.draining = False, True
        return [self._evict(entry)] if entry.idle else self._advance(now)

    def tick(self, now: float) -> list[Instruction]:
        """Unload what is idle past its time-to-live, refuse a load that waited too long."""
        deadlines = [(entry, self.deadline_of(model)) for model, entry in self._entries.items()]
        expired = [entry for entry, at in deadlines if at is not None and at <= now]
        done: list[Instruction] = []
        for entry in expired:
            if entry.state is State.QUEUED:
                why = f"waited {self.wait_seconds:g} s in vain for models in use in"
                done.append(self._refuse(entry, self._no_room(entry, why)))
            else:
                done.append(self._evict(entry))
        return done + self._advance(now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do next; None if never, as things stand."""
        times = (self.deadline_of(model) for model in self._entries)
        return min((time for time in times if time is not None), default=None)

    def deadline_of(self, model: str) -> float | None:
        """When `tick` has something to do for one model: time-to-live, or patience, runs out."""
        entry = self._entries[model]
        if entry.state is State.QUEUED and entry.blocked_since is not None:
            return entry.blocked_since + self.wait_seconds
        ttl = self.ttl_seconds if entry.ttl is None else entry.ttl
        return entry.idle_since + ttl if ttl is not None and entry.idle else None

    def _in(self, state: State) -> Iterable[Entry]:
        return (entry for entry in self._entries.values() if entry.state is state)

    def _free(self) -> int:
        return self.budget_bytes - self.used_bytes

    def _leaving(self) -> int:
        return sum(entry.bytes for entry in self._in(State.UNLOADING))

    def _advance(self, now: float) -> list[Instruction]:
        """Carry on with whatever the last event made possible."""
        done: list[Instruction] = []
        for entry in list(self._in(State.LOADING)):
            if 0 < entry.excess <= self._free():
                entry.bytes, entry.excess = entry.bytes + entry.excess, 0
                done += self._settled(entry)
        reachable = self.budget_bytes - sum(e.bytes for e in self._entries.values() if e.pinned)
        for entry in [entry for entry in self._queue if entry.need > reachable]:
            why = "cannot get them within"
            done.append(self._refuse(entry, self._no_room(entry, why)))
        if any(entry.excess for entry in self._entries.values()):
            return done  # what is freed next is owed to a model that is in memory already
        while self._queue and sum(1 for _ in self._in(State.LOADING)) < self.max_concurrent_loads:
            entry = self._queue[0]
            if entry.need > self._free():
                return done + self._make_room(now, entry)
            self._queue.popleft()
            entry.state, entry.bytes, entry.blocked_since = State.LOADING, entry.need, None
            done.append(Load(entry.model))
        return done

    def _make_room(self, now: float, entry: Entry) -> list[Instruction]:
        """Evict for the first in the queue, or note since when models in use stand in its way."""
        victims = self._victims(now, entry.need - self._free() - self._leaving())
        if victims is not None:
            entry.blocked_since = None
            return [self._evict(victim) for victim in victims]
        if entry.blocked_since is None and not any(self._in(State.LOADING)):
            entry.blocked_since = now
        return []

    def _victims(self, now: float, missing: int) -> list[Entry] | None:
        """What to evict for `missing` bytes, cheapest first; None when all together are too few."""
        chosen: list[Entry] = []
        candidates = [entry for entry in self._in(State.READY) if entry.idle]
        for entry in sorted(candidates, key=lambda entry: self.value(now, entry.model)):
            if missing <= 0:
                break
            chosen.append(entry)
            missing -= entry.bytes
        if missing > 0:
            return None
        # a large model taken last may cover for smaller ones before it: spare the dearest of those
        for entry in reversed(chosen.copy()):
            if missing + entry.bytes <= 0:
                chosen.remove(entry)
                missing += entry.bytes
        return chosen

    def _settled(self, entry: Entry) -> list[Instruction]:
        entry.state = State.READY
        granted = self._grant(entry)
        return [*granted, self._evict(entry)] if entry.draining and entry.idle else granted

    def _grant(self, entry: Entry) -> list[Instruction]:
        entry.users, entry.waiting = entry.users + entry.waiting, 0
        return [Ready(entry.model)]

    def _evict(self, entry: Entry) -> Instruction:
        assert not entry.users and not entry.pinned, f"{entry.model} is in use or pinned"
        entry.state, entry.excess = State.UNLOADING, 0
        return Unload(entry.model)

    def _enqueue(self, entry: Entry) -> None:
        entry.state = State.QUEUED
        self._queue.append(entry)

    def _leave(self, entry: Entry) -> None:
        """Back to ABSENT from wherever it was, those who wait kept."""
        if entry.state is State.QUEUED:
            self._queue.remove(entry)
        entry.state, entry.bytes, entry.draining = State.ABSENT, 0, False
        entry.blocked_since = entry.refusal = None

    def _refuse(self, entry: Entry, error: IroncliwError) -> Instruction:
        self._leave(entry)
        entry.waiting, entry.last_error = 0, error.message
        return Refuse(entry.model, error)

    def _no_room(self, entry: Entry, why: str) -> MemoryBudgetError:
        held = ", ".join(
            f"{other.model} ({_size(other.bytes)}, {_standing(other)})"
            for other in self._entries.values()
            if other.bytes and other is not entry
        )
        return MemoryBudgetError(
            f"model {entry.model!r} needs {_size(entry.need)} and {why} the memory budget of "
            f"{_size(self.budget_bytes)}, held by: {held or 'no other model'}; unload or unpin a "
            "model, or raise the budget",
            retry_after=self.wait_seconds,
        )


def _standing(entry: Entry) -> str:
    return "pinned" if entry.pinned else "in use" if entry.users else entry.state


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:.1f} MiB"
