"""What the cache's evictions cost on a trace with a change of habits, against LRU."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict

import pytest

from serve.cache import ModelCache
from serve.cache_states import Load, Refuse, Unload

Zoo = dict[str, tuple[int, float]]  # name: (MB, seconds to load)

# One size, loads of 1 to 12 s (kinds of files, conversions and sources differ): the budget holds 3.
UNLIKE: Zoo = {"a": (500, 1), "b": (500, 1.5), "c": (500, 2), "d": (500, 4), "e": (500, 8)}
UNLIKE |= {"f": (500, 12)}
UNLIKE_BUDGET = 1500
# Sizes of real models, and loads that take about as long as there are bytes to read.
LIKE: Zoo = {"all-MiniLM-L6-v2": (90, 0.4), "distilbert": (260, 0.8), "t5-small": (240, 1.2)}
LIKE |= {"bart-large-mnli": (1600, 4.5), "t5-base": (890, 3.0), "gpt2-medium": (1500, 6.0)}
LIKE_BUDGET = 2600


def zipf_trace(zoo: Zoo, seed: int, length: int = 4000) -> list[tuple[float, str]]:
    """Requests at random times, Zipf(1) over the models; the ranks are dealt anew half-way."""
    source = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(zoo) + 1)]
    now, trace = 0.0, []
    for _ in ("first phase", "second phase"):
        ranked = source.sample(sorted(zoo), len(zoo))
        for model in source.choices(ranked, weights, k=length // 2):
            now += source.expovariate(0.5)
            trace.append((now, model))
    return trace


def lru_reload_seconds(zoo: Zoo, budget: int, trace: list[tuple[float, str]]) -> float:
    """The least recently used goes first, within the same budget of bytes."""
    resident: OrderedDict[str, int] = OrderedDict()
    spent = 0.0
    for _, model in trace:
        size, seconds = zoo[model]
        if model not in resident:
            while sum(resident.values()) + size > budget:
                resident.popitem(last=False)
            spent += seconds
            resident[model] = size
        resident.move_to_end(model)
    return spent


def cache_reload_seconds(zoo: Zoo, budget: int, trace: list[tuple[float, str]]) -> float:
    """The same trace through the cache, each load and unload done at once."""
    cache = ModelCache(budget)
    loads: Counter[str] = Counter()
    for now, model in trace:
        todo = cache.request(now, model, zoo[model][0])
        while todo:
            instruction = todo.pop(0)
            assert not isinstance(instruction, Refuse)
            if isinstance(instruction, Load):
                loads[instruction.model] += 1
                todo += cache.loaded(now, instruction.model, *zoo[instruction.model])
            elif isinstance(instruction, Unload):
                todo += cache.unloaded(now, instruction.model)
            assert cache.used_bytes <= budget
        assert cache.entries[model].users == 1
        assert cache.release(now, model) == []
    return sum(count * zoo[name][1] for name, count in loads.items())


@pytest.mark.parametrize("seed", range(8))
def test_reloads_cost_at_least_30_percent_less_than_with_lru(seed: int) -> None:
    trace = zipf_trace(UNLIKE, seed)
    ours = cache_reload_seconds(UNLIKE, UNLIKE_BUDGET, trace)
    assert ours <= 0.7 * lru_reload_seconds(UNLIKE, UNLIKE_BUDGET, trace)


@pytest.mark.parametrize("seed", range(8))
def test_reloads_cost_less_than_with_lru_where_time_goes_with_size(seed: int) -> None:
    # every byte costs about the same to load, so that a clairvoyant optimum saves 20-odd % at most
    trace = zipf_trace(LIKE, seed)
    ours = cache_reload_seconds(LIKE, LIKE_BUDGET, trace)
    assert ours < lru_reload_seconds(LIKE, LIKE_BUDGET, trace)
