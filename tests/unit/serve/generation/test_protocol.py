"""What travels between the ingress and a replica comes out as it went in."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from serve.generation.protocol import Delta, GenerationJob, Sampling, TokenDraw

DELTAS = [
    Delta(),
    Delta((TokenDraw(7),)),
    Delta((TokenDraw(7, -0.5, ((7, -0.5), (9, -1.25))), TokenDraw(8)), "stop"),
    Delta(finish="length"),
    Delta(scores=(-1.0, -2.0)),
]


@pytest.mark.parametrize("delta", DELTAS)
def test_deltas(delta: Delta) -> None:
    assert pickle.loads(pickle.dumps(delta)) == delta


def test_a_token_costs_few_bytes_beside_the_first() -> None:
    one, two = (
        len(pickle.dumps(Delta((TokenDraw(7),) * 1 + more))) for more in ((), (TokenDraw(8),))
    )
    assert two - one < 20


def test_jobs() -> None:
    job = GenerationJob(np.arange(3, dtype=np.int32), 4, Sampling(seed=5), delta_tokens=16)
    found = pickle.loads(pickle.dumps(job))
    assert found.prompt.tolist() == [0, 1, 2]
    assert (found.max_tokens, found.sampling, found.delta_tokens) == (4, Sampling(seed=5), 16)
