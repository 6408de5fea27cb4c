"""The scheduler with a decoder that asserts every rule of the contract and whose logits depend on
each sequence alone: whatever the company, a job's answer must be what it is alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcliw.errors import OverloadedError, SettingsError
from serve.engines.decoders.fake import FakeDecoder
from serve.engines.protocol import Tokens
from serve.generation.protocol import Delta, Finish, GenerationJob, Sampling, Step, TokenDraw
from serve.generation.sampling import Scores, draw
from serve.generation.scheduler import GenerationLimits, Plan, Scheduler
from serve.generation.sequences import DecoderFacts

Outcome = TokenDraw | Scores

GREEDY = Sampling(temperature=0)
ROOMY = "fake:12?context=64&slots=4"


def tokens(*values: int) -> Tokens:
    return np.array(values, np.int32)


@dataclass
class Answered:
    """What the deltas of one job said."""

    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    scores: tuple[float, ...] | None = None

    def add(self, delta: Delta) -> None:
        assert not self.ended, "a delta after the last one"
        assert delta.tokens or delta.finish or delta.scores
        self.ids += [token.id for token in delta.tokens]
        self.finish, self.scores = delta.finish, delta.scores

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.scores is not None


class Driver:
    """Carries out plans as the runner does, on a clock of its own.

    `seconds` is what a step takes, of its streams and prompt tokens.
    """

    def __init__(
        self,
        source: str = ROOMY,
        limits: GenerationLimits | None = None,
        seconds: Callable[[int, int], float] = lambda streams, prompt: 0.01,
    ) -> None:
        self.decoder = FakeDecoder(source)
        self.scheduler = Scheduler(DecoderFacts.of(self.decoder), limits)
        self.answers: dict[int, Answered] = {}
        self.slots: dict[int, int] = {}
        self.steps: list[Plan] = []
        self.now = 0.0
        self._seconds = seconds

    def submit(self, job: GenerationJob) -> int:
        job_id = self.scheduler.submit(self.now, job)
        self.answers[job_id] = Answered()
        return job_id

    def step(self, meanwhile: Callable[[], None] = lambda: None, *, fail: bool = False) -> bool:
        """One plan; `meanwhile` happens while it computes. False: there was nothing to do."""
        plan = self.scheduler.next()
        if plan is None:
            return False
        for slot in plan.free:
            self.decoder.free(slot)
        for slot, source in plan.begin:
            self.decoder.begin(slot, source)
        for job_id in plan.ended:
            self.answers[job_id].add(Delta(finish="length"))
        if fail:
            meanwhile()
            for job_id in self.scheduler.failed(plan):
                self.answers.pop(job_id)
            return True
        outcomes = [] if plan.step is None else self._forward(plan, plan.step)
        seconds = self._seconds(plan.streams, plan.prompt_tokens)
        self.now += seconds
        meanwhile()
        for job_id, delta in self.scheduler.finished(self.now, plan, outcomes, seconds):
            self.answers[job_id].add(delta)
        self.steps.append(plan)
        return True

    def _forward(self, plan: Plan, step: Step) -> list[Outcome]:
        before = self.decoder.held_tokens
        logits = self.decoder.forward(step)
        # the fake forgets what is read again, so nothing may be
        assert self.decoder.held_tokens == before + len(step.tokens)
        start = 0
        for job_id, count in plan.fed:
            self.slots[job_id] = int(step.slots[start])
            start += count
        return list(draw(logits, plan.contexts))

    def cancel(self, job_id: int) -> None:
        self.scheduler.cancel(job_id)
        self.answers.pop(job_id, None)

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.step():
                break
        else:
            pytest.fail("some job does not end")
        assert all(answer.ended for answer in self.answers.values())
        stats = self.scheduler.stats()
        assert (stats.running, stats.waiting, stats.kv_tokens) == (0, 0, 0)
        assert self.decoder.held_slots() == frozenset()


def alone(job: GenerationJob, source: str = ROOMY) -> Answered:
    driver = Driver(source)
    job_id = driver.submit(job)
    driver.drain()
    return driver.answers[job_id]


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1.0]),
    top_k=st.sampled_from([0, 3]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(-5, 5),
)
IDS = st.tuples(st.integers(0, 11), st.integers(1, 18)).map(
    lambda pair: ((np.arange(pair[1]) ** 2 + pair[0]) % 12).astype(np.int32)
)
ANSWERED = st.builds(
    GenerationJob,
    prompt=IDS,
    max_tokens=st.sampled_from([1, 9, 16]),
    sampling=SAMPLINGS,
    stop_tokens=st.sampled_from([frozenset[int](), frozenset({2})]),
    index=st.integers(0, 1),
    generated=st.lists(st.integers(3, 11), max_size=5).map(lambda ids: tokens(*ids)),
    priority=st.integers(0, 3),
)
SCORED = st.builds(GenerationJob, IDS, st.just(1), score_tokens=st.just((0, 5)))
JOBS = st.sampled_from([ANSWERED] * 5 + [SCORED]).flatmap(lambda kind: kind)
ACTIONS = st.lists(
    JOBS
    | st.tuples(st.sampled_from(["cancel", "cancel in flight"]), st.integers(0, 20))
    | st.sampled_from(["step"] * 9 + ["fail"]),
    max_size=30,
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(JOBS, min_size=2, max_size=6),
    ACTIONS,
    st.integers(2, 5),
    st.sampled_from([19, 25, 40]),
    st.integers(1, 24),
    st.booleans(),
)
def test_every_job_gets_the_answer_that_it_gets_alone(
    first: list[GenerationJob],
    actions: list[GenerationJob | tuple[str, int] | str],
    slots: int,
    kv: int,
    chunk: int,
    seq2seq: bool,
) -> None:
    """Slots and KV cache are so few that jobs wait and are preempted all the time; the decoder
    asserts positions, slots and kv_tokens."""
    kind = f"context=64&seq2seq={'1' * seq2seq}"
    limits = GenerationLimits(max_chunk_tokens=chunk, min_chunk_tokens=1)
    driver = Driver(f"fake:12?slots={slots}&kv={kv}&{kind}", limits)
    jobs: dict[int, GenerationJob] = {}

    def cancel(which: int) -> None:
        if driver.answers:
            driver.cancel(sorted(driver.answers)[which % len(driver.answers)])

    for action in [*first, *actions]:
        if isinstance(action, GenerationJob):
            jobs[driver.submit(action)] = action
        elif isinstance(action, str):
            driver.step(fail=action == "fail")
        elif action[0] == "cancel":
            cancel(action[1])
        else:
            driver.step(lambda which=action[1]: cancel(which))  # type: ignore[misc]
    driver.drain()
    for job_id, answer in driver.answers.items():
        assert answer == alone(jobs[job_id], f"fake:12?slots=1&kv={kv}&{kind}")


def test_decoding_jobs_join_and_leave_at_every_step() -> None:
    driver = Driver()
    first = driver.submit(GenerationJob(tokens(1, 2, 3), 6, GREEDY))
    driver.step()
    second = driver.submit(GenerationJob(tokens(4, 5), 2, GREEDY))
    driver.drain()
    fed = [[job_id for job_id, _ in plan.fed] for plan in driver.steps if plan.step]
    assert fed == [[first], [first, second], [first, second], [first], [first], [first]]


def test_a_prompt_is_read_in_chunks_beside_streams_and_whole_without() -> None:
    prompt = np.arange(100, dtype=np.int32) % 12
    driver = Driver("fake:12?context=600&slots=4", seconds=lambda streams, prompt: 1 + prompt / 20)
    driver.submit(GenerationJob(prompt, 1, GREEDY))
    driver.drain()
    assert [plan.prompt_tokens for plan in driver.steps] == [100, 0]
    stream = driver.submit(GenerationJob(tokens(1), 40, GREEDY))
    driver.step()
    driver.submit(GenerationJob(prompt, 1, GREEDY))
    driver.drain()
    assert all(plan.fed[0] == (stream, 1) for plan in driver.steps[2:] if plan.prompt_tokens)
    assert sum(plan.prompt_tokens > 0 for plan in driver.steps[2:]) > 2


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.001, 0.1),
    st.floats(1e-5, 0.01),
    st.floats(1e-5, 0.003),
    st.integers(1, 7),
)
def test_a_long_prompt_stalls_the_streams_as_little_as_asked(
    fixed: float, per_stream: float, per_token: float, streams: int
) -> None:
    """Whatever the decoder's speed: at most `stall` times the streams' own step, but for the
    smallest chunk."""
    driver = Driver(
        "fake:12?context=2000&slots=8",
        seconds=lambda streams, prompt: fixed + per_stream * streams + per_token * prompt,
    )
    for number in range(streams):
        driver.submit(GenerationJob(tokens(number), 1500, GREEDY))
    for _ in range(10):
        driver.step()
    begun, known = len(driver.steps), driver.now
    long = driver.submit(GenerationJob(np.zeros(800, np.int32), 1, GREEDY))
    while not driver.answers[long].ended:
        driver.step()
    assert driver.now > known
    chunks = [plan.prompt_tokens for plan in driver.steps[begun:] if plan.prompt_tokens]
    own = fixed + per_stream * streams
    for chunk in chunks:
        assert own + per_token * chunk <= 2.0 * own + 1e-9 or chunk <= 32
    assert sum(chunks) in (799, 800)  # a single last one is no chunk
    # and no less than it may, growing by two: all but the first two and the last
    for before, chunk in pairwise(chunks[1:-1]):
        assert own + per_token * (chunk + 16) > 1.9 * own or chunk == 512 or chunk + 16 > 2 * before


def test_priority_then_arrival() -> None:
    driver = Driver("fake:12?slots=1&context=64")
    driver.submit(GenerationJob(tokens(1), 4, GREEDY))
    driver.step()
    ids = [driver.submit(GenerationJob(tokens(1), 1, GREEDY, priority=p)) for p in (3, 1, 2, 1)]
    driver.drain()
    order = [plan.fed[0][0] for plan in driver.steps if plan.step]
    assert order[4:] == [ids[1], ids[3], ids[2], ids[0]]


def test_the_low_one_is_not_starved() -> None:
    """There is always newer and more urgent work, and yet it ends."""
    limits = GenerationLimits(starvation_seconds=0.1)
    driver = Driver("fake:12?slots=1&context=64", limits, lambda streams, prompt: 0.01)
    driver.submit(GenerationJob(tokens(1), 4, GREEDY, priority=0))
    low = driver.submit(GenerationJob(tokens(1), 1, GREEDY, priority=3))
    for _ in range(200):
        driver.submit(GenerationJob(tokens(1), 1, GREEDY, priority=0))
        driver.step()
        if driver.answers[low].ended:
            break
    assert 0.3 <= driver.now <= 0.5


def test_the_newest_of_the_lowest_priority_makes_room_and_loses_nothing() -> None:
    source = "fake:12?slots=3&context=64&kv=30"
    driver = Driver(source)
    job = GenerationJob(tokens(1, 2, 3), 20, GREEDY)
    low = driver.submit(GenerationJob(tokens(1, 2, 3), 20, GREEDY, priority=3))
    old, new = driver.submit(job), driver.submit(job)
    driver.drain()
    ended = sorted((ends(driver, job_id), job_id) for job_id in (low, old, new))
    assert [job_id for _, job_id in ended] == [old, new, low]
    assert driver.scheduler.stats().preemptions >= 2
    assert driver.answers[low] == driver.answers[old] == alone(job)


def ends(driver: Driver, job_id: int) -> int:
    """The last step that the job was in."""
    return max(n for n, plan in enumerate(driver.steps) if job_id in dict(plan.fed))


def test_cancelling_frees_the_slot_in_the_next_plan() -> None:
    driver = Driver("fake:12?slots=1&context=64")
    first = driver.submit(GenerationJob(tokens(1), 9, GREEDY))
    second = driver.submit(GenerationJob(tokens(2), 2, GREEDY))
    driver.step(lambda: driver.cancel(first))
    plan = driver.scheduler.next()
    assert plan
    assert plan.free == (driver.slots[first],)
    assert dict(plan.fed) == {second: 1}
    assert driver.scheduler.finished(1.0, plan, draw_nothing(plan), 0.01)
    driver.scheduler.cancel(second)
    last = driver.scheduler.next()
    assert last
    assert (last.free, last.step) == (plan.free, None)


def draw_nothing(plan: Plan) -> list[Outcome]:
    return list(draw(np.zeros((len(plan.rows), 12), np.float32), plan.contexts))


def test_a_failed_step_loses_its_jobs_alone() -> None:
    driver = Driver("fake:12?slots=1&context=64")
    lost = driver.submit(GenerationJob(tokens(1, 2), 4, GREEDY))
    waiting = driver.submit(GenerationJob(tokens(1, 2), 4, GREEDY))
    driver.step()
    driver.step(fail=True)
    assert lost not in driver.answers
    driver.drain()
    assert driver.answers[waiting] == alone(GenerationJob(tokens(1, 2), 4, GREEDY))


def test_an_answer_is_cut_to_the_context() -> None:
    source = "fake:12?slots=1&context=10"
    answer = alone(GenerationJob(tokens(*range(7)), 500, GREEDY), source)
    assert (len(answer.ids), answer.finish) == (3, "length")
    source = "fake:12?slots=1&context=10&seq2seq=1&kv=20"
    answer = alone(GenerationJob(tokens(*range(7)), 500, GREEDY), source)
    assert (len(answer.ids), answer.finish) == (10, "length")


def test_an_answer_is_cut_to_the_whole_kv_cache() -> None:
    answer = alone(GenerationJob(tokens(1, 2, 3), 50, GREEDY), "fake:12?slots=2&context=64&kv=8")
    assert (len(answer.ids), answer.finish) == (6, "length")  # the last one is never read


def test_an_answer_goes_on_after_what_was_generated_elsewhere() -> None:
    sampling = Sampling(temperature=1, presence_penalty=0.5, seed=3)
    whole = alone(GenerationJob(tokens(1, 2), 12, sampling))
    rest = alone(GenerationJob(tokens(1, 2), 12, sampling, generated=tokens(*whole.ids[:5])))
    assert rest.ids == whole.ids[5:]
    done = alone(GenerationJob(tokens(1, 2), 12, sampling, generated=tokens(*whole.ids)))
    assert (done.ids, done.finish) == ([], "length")


def test_a_stop_token_is_not_delivered() -> None:
    whole = alone(GenerationJob(tokens(1, 2), 12, GREEDY)).ids
    stop = whole[4]
    answer = alone(GenerationJob(tokens(1, 2), 12, GREEDY, stop_tokens=frozenset({stop})))
    assert (answer.ids, answer.finish) == (whole[: whole.index(stop)], "stop")


def test_scores_are_the_log_probabilities_of_the_next_token() -> None:
    answer = alone(GenerationJob(tokens(*range(12)), 1, score_tokens=tuple(range(12))))
    assert answer.scores is not None
    assert sum(np.exp(answer.scores)) == pytest.approx(1)
    assert len(set(answer.scores)) > 6


@pytest.mark.parametrize(
    "limits",
    [GenerationLimits(max_waiting=2), GenerationLimits(max_waiting_tokens=5)],
    ids=["jobs", "tokens"],
)
def test_too_much_waits(limits: GenerationLimits) -> None:
    driver = Driver("fake:12?slots=1&context=64", limits)
    for _ in range(4):
        driver.submit(GenerationJob(tokens(1, 1), 1, GREEDY))
        driver.submit(GenerationJob(tokens(1, 1), 1, GREEDY))
        with pytest.raises(OverloadedError, match="2 jobs with 4 tokens wait") as refused:
            driver.submit(GenerationJob(tokens(1, 1), 1, GREEDY))
        driver.drain()
    assert refused.value.retry_after == pytest.approx(0.01)
    # what is cancelled waits no more
    driver.cancel(driver.submit(GenerationJob(tokens(1, 1), 1, GREEDY)))
    assert driver.scheduler.stats().waiting == 0


def test_a_long_prompt_is_admitted_where_nothing_waits() -> None:
    driver = Driver(limits=GenerationLimits(max_waiting_tokens=3))
    driver.submit(GenerationJob(np.zeros(20, np.int32), 1, GREEDY))
    driver.drain()


def test_stats() -> None:
    driver = Driver("fake:12?slots=1&context=64")
    driver.submit(GenerationJob(tokens(1, 2, 3), 2, GREEDY))
    driver.submit(GenerationJob(tokens(1), 1, GREEDY))
    driver.step()
    stats = driver.scheduler.stats()
    assert (stats.running, stats.waiting, stats.kv_tokens, stats.kv_capacity) == (1, 1, 3, 64)
    driver.drain()
    stats = driver.scheduler.stats()
    assert (stats.prompt_tokens, stats.generated_tokens, stats.steps) == (4, 3, 3)
    assert stats.step_seconds == pytest.approx(0.03)


def test_limits_are_checked() -> None:
    with pytest.raises(SettingsError, match="max_waiting=0 is not a limit"):
        GenerationLimits(max_waiting=0)
    with pytest.raises(SettingsError, match=r"stall=1\.0 is not a limit: give more than 1"):
        GenerationLimits(stall=1.0)


class Adapter:
    """Stands for one that a decoder has read."""

    resident_bytes = 1
    device = precision = "none"

    def close(self) -> None:
        """Nothing to do."""


def test_each_token_of_a_step_is_under_its_jobs_adapter() -> None:
    first, second = Adapter(), Adapter()
    scheduler = Scheduler(DecoderFacts.of(FakeDecoder(ROOMY)))
    for loaded, length in ((first, 2), (None, 1), (second, 3), (first, 1)):
        scheduler.submit(0.0, GenerationJob(tokens(*[5] * length), 4, GREEDY, loaded=loaded))
    plan = scheduler.next()
    assert plan is not None and plan.step is not None
    step = plan.step
    assert set(step.adapters) == {first, second}
    under = [None if row < 0 else step.adapters[row] for row in step.row_adapters]
    by_slot = {slot: under[at] for at, slot in enumerate(step.slots.tolist())}
    counts = [step.slots.tolist().count(slot) for slot in by_slot]
    owners = zip(counts, by_slot.values(), strict=True)
    assert sorted(owners, key=str) == sorted(
        [(2, first), (1, None), (3, second), (1, first)], key=str
    )
    assert all(under[at] is by_slot[slot] for at, slot in enumerate(step.slots.tolist()))


def test_a_step_without_adapters_names_none() -> None:
    scheduler = Scheduler(DecoderFacts.of(FakeDecoder(ROOMY)))
    scheduler.submit(0.0, GenerationJob(tokens(5), 4, GREEDY))
    plan = scheduler.next()
    assert plan is not None and plan.step is not None
    assert plan.step.adapters == ()
    assert len(plan.step.row_adapters) == 0
