"""The process beside the head that looks after the machines.

Run as `python -m cluster.control.controller`.

Of all that it imports the Compute library is the largest, and is imported first: what its import
leaves free is used by the rest. That is why the loop is imported in a function.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading

from cluster.gce.library import compute_library

# of the library, what `cluster.gce.client` uses
_CLIENTS = ("InstancesClient", "ZoneOperationsClient", "GlobalOperationsClient")


def main() -> None:
    """Run until SIGTERM; a parent may hand over the settings, pickled, on standard input."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    given = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    try:
        for name in _CLIENTS:
            getattr(compute_library(), name)
    except ImportError:
        pass  # the first call says what to install
    from cluster.control.loop import TICK_SECONDS, make_controller
    from ironcliw import logs
    from ironcliw.settings import load_settings

    settings = pickle.loads(given) if given else load_settings()
    logs.configure(settings.log)
    controller = make_controller(settings)
    while not stop.wait(TICK_SECONDS):
        controller.tick()
    controller.close()


if __name__ == "__main__":
    main()
