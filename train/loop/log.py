"""The run's log: a line for each step, chained by hashes, with the bits of every number.

The log of a run that was killed and resumed is equal to that of one that was not, byte for byte:
so it holds no time, no speed and no name of a machine. Those are metrics.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

START = hashlib.sha256(b"ironcliw run log 1").hexdigest()


class RunLog:
    """Lines of JSON; each ends with the hash of all before it.

    Args:
        text: Of a log to go on with; "" for a new one.
    """

    def __init__(self, text: str = "") -> None:
        self._lines = text.splitlines()
        self.chain = json.loads(self._lines[-1])["chain"] if self._lines else START

    def add(self, **fields: Any) -> dict[str, Any]:
        """Append a line.

        Args:
            fields: What JSON can hold; a float gets a twin `NAME_hex`, which holds its bits.

        Returns:
            The line's fields.
        """
        line: dict[str, Any] = {}
        for name, value in fields.items():
            line[name] = value
            if isinstance(value, float):
                line[f"{name}_hex"] = value.hex()
        body = json.dumps(line, sort_keys=True, separators=(",", ":"))
        self.chain = hashlib.sha256(f"{self.chain}{body}".encode()).hexdigest()
        line["chain"] = self.chain
        self._lines.append(json.dumps(line, separators=(",", ":")))
        return line

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self._lines)

    def lines(self) -> list[dict[str, Any]]:
        """All lines, parsed."""
        return [json.loads(line) for line in self._lines]


def check(text: str) -> int:
    """How many lines of a log are whole and in order; fewer than it has where it is damaged."""
    chain = START
    for count, raw in enumerate(text.splitlines()):
        try:
            line = json.loads(raw)
            claimed = line.pop("chain")
        except (ValueError, AttributeError, KeyError, TypeError):
            return count
        body = json.dumps(line, sort_keys=True, separators=(",", ":"))
        chain = hashlib.sha256(f"{chain}{body}".encode()).hexdigest()
        if chain != claimed:
            return count
    return len(text.splitlines())
