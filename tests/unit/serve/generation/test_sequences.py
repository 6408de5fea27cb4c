"""Jobs that a decoder can never answer, and how the tokens of one are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ironcliw.errors import ContextLengthError, RequestError
from serve.engines.protocol import Tokens
from serve.generation.protocol import GenerationJob, Sampling
from serve.generation.sequences import DecoderFacts, make_sequence

FACTS = DecoderFacts(vocabulary=12, context=64, slots=2, kv_tokens=40)


def tokens(*values: int) -> Tokens:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (GenerationJob(tokens(), 1), RequestError, "no tokens"),
        (GenerationJob(tokens(1), 0), RequestError, "max_tokens=0"),
        (
            GenerationJob(tokens(1, 12), 1),
            RequestError,
            "prompt has the token ids 1 to 12.*0 to 11",
        ),
        (GenerationJob(tokens(1), 1, generated=tokens(-1)), RequestError, "generated has"),
        (GenerationJob(tokens(1), 1, score_tokens=(99,)), RequestError, "score_tokens has"),
        (
            GenerationJob(tokens(1), 1, Sampling(logit_bias=((12, 1.0),))),
            RequestError,
            "logit_bias has",
        ),
        (
            GenerationJob(tokens(1), 1, generated=tokens(1), score_tokens=(1,)),
            RequestError,
            "`generated` must be empty",
        ),
        (
            GenerationJob(np.zeros(64, np.int32), 1),
            ContextLengthError,
            "64 tokens and the model's context is 64.*63 or fewer",
        ),
        (
            GenerationJob(np.zeros(50, np.int32), 1),
            ContextLengthError,
            r"50 tokens and the KV cache holds 40.*serve\.kv_cache_bytes",
        ),
    ],
)
def test_a_job_that_can_never_be_answered(
    job: GenerationJob, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_sequence(1, job, 0.0, FACTS)


def test_a_source_that_can_never_be_read() -> None:
    facts = replace(FACTS, start_token=0)
    with pytest.raises(ContextLengthError, match="65 tokens and the model reads 64"):
        make_sequence(1, GenerationJob(np.zeros(65, np.int32), 1), 0.0, facts)
    with pytest.raises(ContextLengthError, match=r"40 tokens .* holds 40 .*kv_cache_bytes"):
        make_sequence(1, GenerationJob(np.zeros(40, np.int32), 1), 0.0, facts)


def test_reading_goes_from_the_prompt_into_the_answer() -> None:
    job = GenerationJob(tokens(1, 2, 3), 9, generated=tokens(4, 5))
    sequence = make_sequence(1, job, 0.0, FACTS)
    read: list[int] = []
    for count in (2, 2, 1):
        read += sequence.unread(count)
        sequence.held += count
    assert read == [1, 2, 3, 4, 5]
    assert sequence.pending == 0


def test_the_repetition_penalty_reads_the_prompt_of_a_causal_model_alone() -> None:
    job = GenerationJob(tokens(3, 4), 4, generated=tokens(5))
    causal = make_sequence(1, job, 0.0, FACTS).draw
    assert (causal.prompt.tolist(), causal.generated) == ([3, 4], [5])
    seq2seq = make_sequence(1, job, 0.0, replace(FACTS, start_token=0)).draw
    assert (seq2seq.prompt.tolist(), seq2seq.generated) == ([], [5])
