"""Runs beside a head in tests, as a module of `cluster.side_modules`."""

from __future__ import annotations

import pickle
import sys
import time

from ironcliw.settings import Settings

if __name__ == "__main__":
    settings: Settings = pickle.load(sys.stdin.buffer)
    sys.stdout.write(f"beside the head of {settings.state_dir}\n")
    sys.stdout.flush()
    while True:
        time.sleep(60)
