"""`python -m train`: `ironcliw train`, for `ray job submit -- python -m train ...`."""

from __future__ import annotations

import sys

from ironcliw.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
