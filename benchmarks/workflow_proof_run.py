"""One run of `workflow_proof`: submits, sends, kills, waits, and has it judged."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from actors.workflow_records import count_by_status, events_after, load
from benchmarks.machine import ROOT
from benchmarks.workflow_proof_head import Head
from benchmarks.workflow_proof_judge import Verdict, judge
from benchmarks.workflow_proof_work import DEFINITION, VALUES, read
from ironcliw.client import Client
from ironcliw.errors import IroncliwError
from ironcliw.store import Store

logger = logging.getLogger(__name__)

SEED = 20_261_124
_SETTLE_SECONDS = 180.0
_STEP_SECONDS = (0.02, 0.3)
_NAMES = ("runs", "accepted", "received")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done.

    Attributes:
        workflows: That are submitted, evenly over the time.
        seconds: Of killing.
        heads: How often the whole head is killed.
    """

    workflows: int
    seconds: float
    heads: int


WHOLE, SLICE = Plan(1000, 600.0, 5), Plan(40, 45.0, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run.

    Attributes:
        verdict: After the killing, when all stood still.
        uncertain_steps: That were resolved, half by a retry and half by a skip.
        after: What held once they were.
        kills: By what was killed.
        seconds: All of it took.
    """

    verdict: Verdict
    uncertain_steps: int
    after: Verdict
    kills: dict[str, int]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Nothing that must not be, and everything ends once its user has decided.

        Without kills and messages nothing would have been shown.
        """
        is_shown = bool(self.verdict.messages and self.kills.get("head") and self.kills.get("step"))
        return is_shown and self.verdict.is_good and self.after.is_good and not self.after.uncertain


class Proof:
    """One run of it.

    Args:
        folder: Empty.
        plan: How much.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(SEED)
        self._head = Head(folder, random.Random(SEED + 1))
        self._files = {name: folder / f"{name}.jsonl" for name in _NAMES}
        self._sender_log = folder / "sender.log"
        self._ids: list[str] = []
        self._stop = threading.Event()

    def run(self) -> Outcome:
        """Submit, kill, wait, judge, resolve, judge again."""
        begun = time.monotonic()
        self._head.up()
        try:
            with Client(base_url=self._head.url) as client:
                self._disturb(client)
                self._settle(client)
                verdict = self._judge()
                resolved = self._resolve(client)
                self._settle(client)
                after = self._judge()
        finally:
            self._stop.set()
            self._head.down()
        kills = dict(self._head.kills)
        return Outcome(verdict, resolved, after, kills, time.monotonic() - begun)

    def _disturb(self, client: Client) -> None:
        submitting = threading.Thread(target=self._submit_all, args=(client,))
        sending = threading.Thread(target=self._send_on)
        for thread in (submitting, sending):
            thread.start()
        part = self._plan.seconds / (self._plan.heads + 1)
        for number in itertools.count():
            self._head.kill_some(time.monotonic() + part)
            if number == self._plan.heads:
                break
            logger.info("proof: the head is killed, for time %d", number + 1)
            self._head.kill_all()
            self._head.up()
        submitting.join(_SETTLE_SECONDS)
        assert not submitting.is_alive(), "the submissions do not end"
        self._stop.set()
        sending.join(30)

    def _submit_all(self, client: Client) -> None:
        begun, total = time.monotonic(), self._plan.workflows
        for number in range(total):
            due = begun + number / total * self._plan.seconds
            self._stop.wait(max(0.0, due - time.monotonic()))
            self._ids.append(self._submit(client, f"proof-{number}"))

    def _submit(self, client: Client, key: str) -> str:
        """Submit until somebody takes it; with the key it is one workflow all the same."""
        inputs = {"notes": str(self._files["runs"]), "seconds": self._draw.uniform(*_STEP_SECONDS)}
        while True:
            try:
                return client.submit_workflow(DEFINITION, inputs, key=key).id
            except IroncliwError as error:
                if self._stop.wait(0.5):
                    raise
                logger.debug("%s is submitted again: %s", key, error)

    def _send_on(self) -> None:
        """Keep a sender running; it ends with the head that it is connected to."""
        command = [sys.executable, "-m", "benchmarks.workflow_proof_sender"]
        while not self._stop.is_set():
            first = str(len(read(self._files["accepted"])))
            files = [str(self._files["received"]), str(self._files["accepted"])]
            with (
                self._sender_log.open("ab") as log,
                subprocess.Popen(
                    [*command, *files, first],
                    cwd=ROOT,
                    env=self._head.environment,
                    stdout=log,
                    stderr=log,
                ) as process,
            ):
                while process.poll() is None and not self._stop.wait(0.2):
                    pass
                process.kill()
            self._stop.wait(1.0)

    def _settle(self, client: Client) -> None:
        """Wait until every workflow has ended or waits for its user, and every message arrived."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        waiting = set(self._ids)
        while waiting and time.monotonic() < deadline:
            with contextlib.suppress(IroncliwError):
                for name in list(waiting):
                    if client.workflow(name).status in ("completed", "failed", "uncertain"):
                        waiting.discard(name)
            time.sleep(0.5)
        while time.monotonic() < deadline and self._missing():
            time.sleep(0.5)

    def _missing(self) -> set[int]:
        accepted, received = (
            {one["number"] for one in read(self._files[name])} for name in ("accepted", "received")
        )
        return accepted - received

    def _judge(self) -> Verdict:
        runs, accepted, received = (read(self._files[name]) for name in _NAMES)
        with Store(f"sqlite:///{self._head.state / 'state.db'}") as store:
            with store.read() as connection:
                stored = [
                    (load(connection, one), events_after(connection, one)) for one in self._ids
                ]
                count = sum(count_by_status(connection).values())
        verdict = judge(stored, runs, accepted, received)
        if not count == len(set(self._ids)) == self._plan.workflows:
            verdict.wrong.append(
                f"{self._plan.workflows} were submitted, {len(set(self._ids))} ids were given, and "
                f"{count} workflows are stored"
            )
        return verdict

    def _resolve(self, client: Client) -> int:
        """Decide about each uncertain step, as its user would; how many there were."""
        count = 0
        for name in self._ids:
            view = client.workflow(name)
            for step in view.steps if view.status == "uncertain" else ():
                if step.status != "uncertain":
                    continue
                if count % 2:
                    client.skip_step(name, step.name, value=VALUES[step.name])
                else:
                    client.retry_step(name, step.name)
                count += 1
        return count


def prove(plan: Plan) -> Outcome:
    """One run, in a folder that is removed at the end."""
    # not below /tmp, which may be memory: the store is to wait for a disk
    with tempfile.TemporaryDirectory(prefix="ironcliw-proof-", dir=Path.home()) as folder:
        return Proof(Path(folder), plan).run()
