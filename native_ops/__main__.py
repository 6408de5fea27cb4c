"""`python -m native_ops`: which compiled kernels this machine uses; exit status 1 where none."""

from __future__ import annotations

import sys

from native_ops import binary


def main() -> int:
    """Say what is in use, and where it is the references, why."""
    state = binary.state()
    choice = f" of {', '.join(state.levels)}" if state.levels else ""
    sys.stdout.write(f"compiled kernels: {state}{choice}\n")
    return 0 if state.level else 1


if __name__ == "__main__":
    sys.exit(main())
