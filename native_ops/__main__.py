"""`python -m native_ops`: which compiled kernels this machine uses.

The exit status is 1 where it uses none, 2 where a setting is wrong.
"""

from __future__ import annotations

import sys

from ironcliw.errors import SettingsError
from native_ops import binary


def main() -> int:
    """Say what is in use, and where it is the references, why."""
    try:
        state = binary.state()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    choice = f" of {', '.join(state.levels)}" if state.levels else ""
    sys.stdout.write(f"compiled kernels: {state}{choice}\n")
    return 0 if state.level else 1


if __name__ == "__main__":
    sys.exit(main())
