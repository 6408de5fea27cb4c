"""Requests to answers on a real runner with a decoder that needs no weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import DeadlineExceededError, UnavailableError
from serve.engines.decoders.fake import END
from serve.generation.answering import Answer, Answering
from serve.generation.protocol import Delta, GenerationJob
from serve.variants import ReplicaLostError
from tests.unit.serve.generation.running_service import (
    HELLO,
    chat,
    completion,
    made,
    soon,
    texts,
)
from tests.waiting import until


class TestAnswers:
    async def test_a_chat_renders_answers_and_counts(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            answers, answering = await it.service.chat(chat(), soon())
            prompt = it.variant.jobs[0].prompt.tolist()
        assert texts(answers) == [HELLO]
        assert answers[0].finish == "stop"
        rendered = "<|im_start|>user\nhi<|end|>\n<|im_start|>assistant\n"
        assert answering.text.encode(rendered).tolist() == prompt
        assert answering.prompt_tokens == len(prompt)
        assert answering.completion_tokens == len(HELLO.encode())
        assert (answering.served.node, answering.served.variant) == ("test-node", "test")
        assert answering.fingerprint == "fake-float32"

    async def test_text_parts_are_joined(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        async with made(tmp_path) as it:
            await it.service.chat(chat(messages=[{"role": "user", "content": parts}]), soon())
            prompt = it.variant.jobs[0].prompt.tolist()
        assert bytes(t for t in prompt if t < END).startswith(b"user\na\nb\n")

    async def test_a_completion_of_several_prompts(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = completion(prompt=["> ", "# "], n=2, max_tokens=3, echo=True)
            answers, answering = await it.service.complete(request, soon())
        assert texts(answers) == ["Hel"] * 4
        assert [answer.finish for answer in answers] == ["length"] * 4
        assert list(answering.echoes) == ["> ", "> ", "# ", "# "]
        assert (answering.prompt_tokens, answering.completion_tokens) == (4, 12)

    async def test_token_arrays_give_what_their_text_gives(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = completion(prompt=list(b"> "), max_tokens=5)
            answers, _ = await it.service.complete(request, soon())
        assert texts(answers) == ["Hello"]

    async def test_sixteen_tokens_where_a_completion_names_no_number(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = completion(model="random", ignore_eos=True)
            _, answering = await it.service.complete(request, soon())
        assert answering.completion_tokens == 16

    async def test_ignore_eos_goes_on_to_max_tokens(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = chat(ignore_eos=True, max_completion_tokens=40)
            answers, answering = await it.service.chat(request, soon())
        assert answering.completion_tokens == 40
        assert answers[0].text.startswith(HELLO)
        assert answers[0].finish == "length"

    async def test_one_seed_gives_n_different_answers_and_the_same_again(
        self, tmp_path: Path
    ) -> None:
        request = completion(model="random", n=4, seed=7, max_tokens=12)
        async with made(tmp_path) as it:
            first = texts((await it.service.complete(request, soon()))[0])
            again = texts((await it.service.complete(request, soon()))[0])
            one = completion(model="random", n=1, seed=7, max_tokens=12)
            alone = texts((await it.service.complete(one, soon()))[0])
            other = completion(model="random", n=1, seed=8, max_tokens=12)
            assert texts((await it.service.complete(other, soon()))[0]) != alone
        assert first == again
        assert len(set(first)) == 4
        assert alone == first[:1]

    async def test_without_a_seed_answers_differ(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            for _ in range(2):
                await it.service.complete(completion(model="random"), soon())
        seeds = {job.sampling.seed for job in it.variant.jobs}
        assert len(seeds) == 2

    async def test_log_probabilities_belong_to_the_text(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = chat(logprobs=True, top_logprobs=2, stop=[" w"])
            answers, _ = await it.service.chat(request, soon())
        assert answers[0].text == "Hello"
        assert bytes(draw.id for _, draw in answers[0].draws) == b"Hello"
        assert [offset for offset, _ in answers[0].draws] == [0, 1, 2, 3, 4]
        assert all(len(draw.top) == 2 for _, draw in answers[0].draws)
        assert all(draw.logprob == pytest.approx(0, abs=1e-6) for _, draw in answers[0].draws)

    async def test_sequence_to_sequence(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            answers, _ = await it.service.complete(completion(model="source"), soon())
        assert texts(answers) == ["ok"]


class TestStops:
    async def test_a_stop_string_that_spans_tokens_frees_the_slot(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            request = chat(model="long", stop=["habcd", "zz"])
            answers, _ = await it.service.chat(request, soon())
            assert answers[0] == Answer("abcdefg", "stop", answers[0].draws)
            await until(lambda: it.running("long") == 0)
            made_tokens = it.variant.runner("long").stats().generated_tokens
        # of 3200: nobody went on with what nobody reads
        assert made_tokens < 1000

    async def test_a_reader_that_leaves_frees_every_slot(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            answering = await it.service.open_chat(chat(model="long", n=3), soon())
            assert it.running("long") == 3
            await answering.aclose()
            await until(lambda: it.running("long") == 0)

    async def test_a_cancelled_request_frees_every_slot(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            task = asyncio.create_task(it.service.chat(chat(model="long", n=2), soon()))
            await until(lambda: it.running("long") == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: it.running("long") == 0)

    async def test_a_deadline_ends_an_answer(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            await it.service.text_side("long")
            with pytest.raises(DeadlineExceededError, match="not whole by the request's deadline"):
                await it.service.chat(chat(model="long"), soon(0.3))
            await until(lambda: it.running("long") == 0)


class TestLostReplicas:
    @pytest.mark.parametrize("lose_after", [1, 6, 9, 15])
    async def test_the_text_is_whole_and_nothing_comes_twice(
        self, tmp_path: Path, lose_after: int
    ) -> None:
        async with made(tmp_path, losses=2, lose_after=lose_after) as it:
            answers, answering = await it.service.chat(chat(n=1), soon())
            assert it.variant.losses == 0 or lose_after * 2 > len(HELLO.encode())
            assert len(it.variant.jobs) >= 2
        assert texts(answers) == [HELLO]
        assert answering.completion_tokens == len(HELLO.encode())
        resumed = it.variant.jobs[1]
        assert bytes(resumed.generated.tolist()) == HELLO.encode()[: len(resumed.generated)]
        assert len(resumed.generated) >= lose_after

    async def test_drawn_answers_go_on_as_they_would_have(self, tmp_path: Path) -> None:
        request = completion(model="random", seed=3, max_tokens=30, n=2)
        async with made(tmp_path) as it:
            whole = texts((await it.service.complete(request, soon()))[0])
        async with made(tmp_path, losses=3, lose_after=5) as it:
            resumed = texts((await it.service.complete(request, soon()))[0])
            assert it.variant.losses == 0
        assert resumed == whole

    async def test_a_loss_after_the_last_token_needs_nobody(self, tmp_path: Path) -> None:
        async with made(tmp_path, losses=1, lose_after=3) as it:

            async def generate(
                model_id: str, job: GenerationJob, deadline: float
            ) -> AsyncGenerator[Delta, None]:
                it.variant.jobs.append(job)
                deltas = it.variant.runner(model_id).generate(job)
                async for delta in deltas:
                    yield Delta(delta.tokens)  # without the word that it ends
                raise ReplicaLostError("a replica was lost")

            it.variant.generate = generate  # type: ignore[method-assign]
            answers, _ = await it.service.complete(completion(max_tokens=3), soon())
            assert len(it.variant.jobs) == 1
        assert (answers[0].text, answers[0].finish) == ("Hel", "length")

    async def test_an_answer_that_takes_replicas_down_is_given_up(self, tmp_path: Path) -> None:
        async with made(tmp_path, losses=99, lose_after=1) as it:
            with pytest.raises(ReplicaLostError, match="a replica was lost"):
                await it.service.chat(chat(), soon())
            assert len(it.variant.jobs) == 4

    async def test_an_answer_that_just_stops_is_an_error(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:

            async def generate(
                model_id: str, job: GenerationJob, deadline: float
            ) -> AsyncGenerator[Delta, None]:
                yield Delta()

            it.variant.generate = generate  # type: ignore[method-assign]
            with pytest.raises(UnavailableError, match="stopped in the middle of an answer"):
                await it.service.chat(chat(), soon())


async def test_the_observer_is_told_once_of_each_request(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    async with made(tmp_path) as it:
        it.service._observer = lambda *facts: seen.append(facts)
        answering: Answering = await it.service.open_chat(chat(), soon())
        await answering.whole()
        await answering.aclose()
    [(model, prompt, tokens, first, total)] = seen
    assert (model, tokens) == ("fake", len(HELLO.encode()))
    assert prompt > 0
    assert 0 < first <= total
