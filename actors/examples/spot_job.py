"""A job on Spot machines that survives their loss: counts the primes below a number.

    eval "$(ironcliw env)"
    ray job submit --working-dir . -- python -m actors.examples.spot_job --below 1000 --to gs://b/c

A step is one number. The state is saved every `--every` steps, and at once when the machine is
taken back; the task then ends with an error that Ray answers by running it again elsewhere, where
it goes on. So a noticed preemption costs no step, and a sudden death `--every` of them at most.
"""

from __future__ import annotations

import argparse
import json
import time

import fsspec
import ray

from cluster.handover import Handover
from ironcliw.errors import ClusterError
from ironcliw.settings import load_settings


class MachineIsTakenBackError(ClusterError):
    """All is saved; to be run again on another machine."""


def load(url: str) -> dict[str, int]:
    """The state that was saved last, or that of the beginning."""
    files, path = fsspec.url_to_fs(url)
    return json.loads(files.cat_file(path)) if files.exists(path) else {"step": 0, "primes": 0}


def save(url: str, state: dict[str, int]) -> None:
    """Keep the state in one move: a reader sees the old one or the new one."""
    files, path = fsspec.url_to_fs(url, auto_mkdir=True)
    files.pipe_file(f"{path}.new", json.dumps(state).encode())
    files.mv(f"{path}.new", path)


@ray.remote
def count_primes(url: str, below: int, every: int, pause: float, trace: str | None) -> int:
    """One stint on one machine: from the last state to the end, or to the machine's."""
    folder, state = load_settings().handover_dir, load(url)
    handover = Handover(folder) if folder else None
    while (number := state["step"]) < below:
        if handover and (notice := handover.notice()):
            save(url, state)
            raise MachineIsTakenBackError(
                f"at step {number}: {notice.reason}; it goes on elsewhere"
            )
        if trace:
            with open(trace, "a", encoding="ascii") as steps:
                steps.write(f"{number}\n")
        time.sleep(pause)  # stands for work
        is_prime = number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))
        state = {"step": number + 1, "primes": state["primes"] + is_prime}
        if state["step"] % every == 0:
            save(url, state)
    save(url, state)
    return state["primes"]


def main() -> None:
    """The driver: runs on the head, and waits."""
    parser = argparse.ArgumentParser(description="Counts primes on a Spot machine.")
    parser.add_argument("--to", required=True, help="URL or path of the saved state")
    parser.add_argument("--below", type=int, default=1000)
    parser.add_argument("--every", type=int, default=10, help="steps from one save to the next")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of each step")
    parser.add_argument("--trace", help="file that gets a line for each step")
    given = parser.parse_args()
    ray.init()
    on_spot = count_primes.options(
        num_cpus=1,
        label_selector={"ray.io/market-type": "spot"},
        max_retries=-1,
        retry_exceptions=[MachineIsTakenBackError],
    )
    work = on_spot.remote(given.to, given.below, given.every, given.pause, given.trace)
    print(f"{ray.get(work)} primes below {given.below}")  # noqa: T201


if __name__ == "__main__":
    main()
