"""Starts the two Ray Serve peers on a Ray of their own, behind Serve's Python proxy.

    /v1/embeddings         stock: FastAPI, `@serve.batch`, sentence-transformers
    /noop/v1/embeddings    FastAPI that answers one fixed embedding

They share one Ray, since a second one would only burn idle CPU beside whoever is measured.
"""

from __future__ import annotations

import argparse
import signal
import threading

import ray
from ray import serve

from benchmarks.peers.noop_serve import Noop
from benchmarks.peers.stock_serve import Stock


def main() -> None:
    """Deploy both and stay until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--temp-dir", required=True)
    options = parser.parse_args()
    ray.init(address="local", _temp_dir=options.temp_dir, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(Stock.bind(options.model), name="stock", route_prefix="/")  # type: ignore[attr-defined]
    serve.run(Noop.bind(), name="noop", route_prefix="/noop")  # type: ignore[attr-defined]
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main()
