"""Small operators: the draw of tokens, cosine search, and adapters of one batch.

Each figure is the median over rounds of the fastest call. "numpy" is our reference; "torch" is what
one would write without the operator: a product with normalised rows and `topk`, and a loop over the
adapters in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import Goal, Options, Row, Samples, interleave
from native_ops.grouped_lora import grouped_lora
from native_ops.sampling import sample_tokens, sample_tokens_reference
from native_ops.search import cosine_top_k

THEME = "native"
ROWS, VOCABULARY = 32, 49152
DRAWS: dict[str, tuple[float, int, float]] = {
    "greedy": (0.0, 0, 1.0),
    "temperature": (0.7, 0, 1.0),
    "top_k 50": (0.7, 50, 1.0),
    "top_p 0.9": (0.7, 0, 0.9),
}
"""temperature, top_k, top_p"""
DRAW_GOALS = {"greedy": 2.0, "temperature": 2.0}
"""ms for all rows"""
SEARCHED, WIDTH, NEAREST = 100_000, 384, 10
RANK = 16

Call = Callable[[], object]


def small_rows(options: Options) -> list[Row]:
    """The rows of the three operators."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        return [*_sampling(options), *_search(options), *_adapters(options)]
    finally:
        torch.set_num_threads(before)


def _sampling(options: Options) -> list[Row]:
    generator = torch.Generator().manual_seed(options.seed)
    logits = 2 * torch.randn(ROWS, VOCABULARY, generator=generator)
    logits[:, ::500] += 9  # most of the mass on few tokens, as a language model has it
    rows = []
    for name, (temperature, top_k, top_p) in DRAWS.items():
        arguments = _draw_arguments(generator, temperature, top_k, top_p)
        calls: dict[str, Call] = {
            "ours": partial(sample_tokens, logits, *arguments),
            "numpy": partial(sample_tokens_reference, logits, *arguments),
        }
        goal = Goal(DRAW_GOALS[name], at_most=True) if name in DRAW_GOALS else None
        title = f"draw of {ROWS} tokens among {VOCABULARY:,}, {name}"
        rows.append(_row(title, "ms", 1e3, calls, options, goal))
    return rows


def _draw_arguments(
    generator: torch.Generator, temperature: float, top_k: int, top_p: float
) -> list[torch.Tensor | int]:
    none, starts = torch.zeros(0, dtype=torch.int32), torch.zeros(ROWS + 1, dtype=torch.int64)
    return [
        torch.rand(ROWS, generator=generator, dtype=torch.float64),
        torch.full((ROWS,), temperature, dtype=torch.float64),
        torch.full((ROWS,), top_p, dtype=torch.float64),
        torch.full((ROWS,), top_k),
        torch.tensor([[1.0, 0, 0]] * ROWS, dtype=torch.float64),
        none,
        starts,
        starts[:ROWS],
        none,
        torch.zeros(0),
        starts,
        torch.full((ROWS,), -1),
        0,
    ]


def _search(options: Options) -> list[Row]:
    generator = torch.Generator().manual_seed(options.seed)
    matrix = torch.randn(SEARCHED, WIDTH, generator=generator)
    norms = matrix.norm(dim=1)
    normalised = matrix / norms[:, None]
    scales = matrix.abs().amax(1) / 127
    small = (matrix / scales[:, None]).round().to(torch.int8)
    small_norms = (small * scales[:, None]).norm(dim=1)
    rows = []
    for asked in (1, 16):
        queries = torch.nn.functional.normalize(torch.randn(asked, WIDTH, generator=generator))
        floats = partial(cosine_top_k, queries, matrix, NEAREST, None, norms)
        bytes_ = partial(cosine_top_k, queries, small, NEAREST, scales, small_norms)
        calls: dict[str, Call] = {"ours": floats, "torch": partial(_nearest, queries, normalised)}
        title = f"{NEAREST} nearest of {SEARCHED:,} x {WIDTH}, {asked} queries"
        goal = Goal(1.0, at_most=True, relative=True)
        rows.append(_row(f"{title}, float32", "ms", 1e3, calls, options, goal))
        goal_small = Goal(0.5, at_most=True, relative=True) if asked == 1 else None
        calls = {"ours": bytes_, "ours, float32": floats}
        rows.append(_row(f"{title}, int8", "ms", 1e3, calls, options, goal_small))
    return rows


def _nearest(queries: torch.Tensor, normalised: torch.Tensor) -> object:
    return (queries @ normalised.T).topk(NEAREST)


def _adapters(options: Options) -> list[Row]:
    generator = torch.Generator().manual_seed(options.seed)
    rows = []
    for width in (576, 1536):
        for adapters, count in ((1, 1), (1, 32), (4, 8), (8, 8), (8, 32)):
            a = torch.randn(adapters, RANK, width, generator=generator) / width**0.5
            b = torch.randn(adapters, RANK, width, generator=generator).transpose(1, 2)
            x, y = torch.randn(count, width, generator=generator), torch.zeros(count, width)
            ranks, scales = torch.full((adapters,), RANK), torch.full((adapters,), 0.5)
            of_row = torch.arange(count) % adapters
            given = (x, y, a, b, ranks, scales, of_row)
            calls: dict[str, Call] = {
                "ours": partial(grouped_lora, *given),
                "torch": partial(_loop, *given),
            }
            title = f"{count} rows under {adapters} adapters of rank {RANK}, {width} x {width}"
            goal = Goal(1.0, at_most=True, relative=True)
            rows.append(_row(title, "us", 1e6, calls, options, goal))
    return rows


def _loop(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    ranks: torch.Tensor,
    scales: torch.Tensor,
    adapter: torch.Tensor,
) -> None:
    for index in set(adapter.tolist()):
        rows = torch.where(adapter == index)[0]
        y[rows] += (x[rows] @ a[index].T) @ b[index].T * scales[index]


def _row(
    name: str,
    unit: str,
    factor: float,
    calls: dict[str, Call],
    options: Options,
    goal: Goal | None,
) -> Row:
    rounds = options.rounds or (2 if options.quick else 7)
    seconds = 0.02 if options.quick else 0.1
    timed = {name: partial(_fastest, call, seconds) for name, call in calls.items()}
    results = interleave(timed, rounds)
    figures = {name: Samples.of(factor * each for each in results[name]) for name in calls}
    return Row(THEME, name, unit, figures.pop("ours"), figures, goal)


def _fastest(call: Call, seconds: float) -> float:
    """Of as many calls as fit, at least two."""
    call()
    best, calls, end = float("inf"), 0, time.perf_counter() + seconds
    while calls < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
        calls += 1
    return best
