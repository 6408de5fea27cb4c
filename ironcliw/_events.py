"""Server-sent events from bytes as they come; no I/O here.

The rules are those of the HTML standard, section 9.2.6 "Interpreting an event stream". httpx's
own line iterator is not used: it also breaks lines at U+0085 and U+2028, which JSON may hold as
they are, and so would tear an event apart.
"""

from __future__ import annotations

import re

END_OF_STREAM = "[DONE]"

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventReader:
    """Turns chunks of bytes, cut anywhere, into the data of whole events.

    Event names and ids are read over: this interface sends neither.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, chunk: bytes) -> list[str]:
        """The data of each event that this chunk completes; a line feed joins several lines.

        Bytes that are not UTF-8 become U+FFFD.
        """
        self._rest += chunk
        events = []
        for line in self._whole_lines():
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data = []
        return events

    def _whole_lines(self) -> list[bytes]:
        if not self._begun and len(self._rest) >= len(_BYTE_ORDER_MARK):
            self._rest = self._rest.removeprefix(_BYTE_ORDER_MARK)
            self._begun = True
        # a carriage return at the end may be the first half of CR LF: it waits for the next chunk
        held = b"\r" if self._rest.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(self._rest.removesuffix(held))
        self._rest = rest + held
        return lines

    def _take(self, line: bytes) -> None:
        # a line without a colon is a name without a value; a line that begins with one, a comment
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
