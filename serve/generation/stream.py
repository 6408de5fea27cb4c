"""From tokens to text as it grows: whole characters only, cut at the first stop string. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve.generation.protocol import Delta, Finish, TokenDraw

Decode = Callable[[Sequence[int]], str]

# What decoders write for bytes that are no character (yet).
REPLACEMENT = "\ufffd"
# Tokens that one more may complete: of a character's four bytes the last is missing. Byte-fallback
# decoders write a replacement for each of them, and for whole characters right before them.
_MOST_INCOMPLETE = 3
# Decoded again with each token; longer ones cost more, a shorter one is cut more often.
_MOST_WINDOW = 6
# Tokens without the end of a character in them are given up on.
_MOST_HELD = 64


class IncrementalText:
    """Decodes an answer token by token.

    The last tokens are decoded together with those before them, as what a token reads as depends on
    its neighbours (spaces, bytes of one character). `tokenizers.decoders.DecodeStream` does so too,
    but fails where a byte-fallback decoder takes back what it wrote: after `<0x41>` ("A") the token
    `<0xFF>` makes the run of both invalid. What is out stays out here.

    Args:
        decode: Text of token ids, with replacement characters for broken bytes.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._sent = ""  # the beginning of the window's text that is out
        self._whole = 0  # tokens of the window that are out to their end

    def push(self, token: int) -> str:
        """The characters that are whole now; often some, sometimes none."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.startswith(self._sent):
            self._restart(self._window[self._whole :] if self._whole else [token])
            text = self._decode(self._window)
        settled = len(text) - _incomplete(text, len(self._window) - self._whole)
        new = text[len(self._sent) : settled]
        self._sent += new
        if settled == len(text):
            self._whole = len(self._window)
            self._shorten(token)
        return new

    def finish(self) -> str:
        """What was held back; replacement characters for bytes that never became a character."""
        rest = self._decode(self._window)[len(self._sent) :] if self._window else ""
        self._restart([])
        return rest

    def _shorten(self, last: int) -> None:
        """Keep the last token alone, where it has a text that the next one can follow."""
        if len(self._window) > _MOST_WINDOW:
            alone = self._decode([last])
            if alone or len(self._window) > _MOST_HELD:
                self._restart([last])
                self._sent, self._whole = alone, 1

    def _restart(self, window: list[int]) -> None:
        self._window, self._sent, self._whole = window, "", 0


class StopStrings:
    """Passes text on up to the first stop string.

    First is the one that is complete first, as a reader who looks at every character would see it;
    of several that end there, the longest. So the answer does not depend on the split into tokens.

    Args:
        stops: Texts that end an answer; may be none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._starts = frozenset(stop[0] for stop in stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that can go out: not what may begin a stop string, nothing after one."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self.found = text[start:end]
            self._held = ""
            return text[:start]
        cut = self._beginning(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """What was held back: the answer ended without the rest of a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str) -> int:
        """Where the longest suffix begins that may become a stop string."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._starts and any(s.startswith(text[at:]) for s in self._stops):
                return at
        return len(text)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one delta gave the reader.

    Attributes:
        text: New characters.
        draws: (characters of the answer before it, token) of the tokens whose text has begun to
            go out; a stop string's own tokens are never here.
        tokens: Tokens that the model made for this, seen or not.
        finish: Why the answer ended; None: it goes on.
    """

    text: str = ""
    draws: tuple[tuple[int, TokenDraw], ...] = ()
    tokens: int = 0
    finish: Finish | None = None


class AnswerText:
    """One answer: deltas in, pieces out.

    Args:
        decode: As of `IncrementalText`.
        stops: As of `StopStrings`.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._text = IncrementalText(decode)
        self._stops = StopStrings(stops)
        self._waiting: deque[tuple[int, TokenDraw]] = deque()
        self._decoded = 0
        self._sent = 0

    def push(self, delta: Delta) -> Piece:
        """The reader's piece; after one with `finish` the job can be closed, nothing more comes."""
        out: list[str] = []
        for draw in delta.tokens:
            self._waiting.append((self._decoded, draw))
            out.append(self._pass(self._text.push(draw.id)))
            if self._stops.found is not None:
                return self._piece(out, delta, "stop")
        if delta.finish is None:
            return self._piece(out, delta, None)
        out += (self._pass(self._text.finish()), self._stops.finish())
        return self._piece(out, delta, "stop" if self._stops.found else delta.finish)

    def _pass(self, text: str) -> str:
        self._decoded += len(text)
        return self._stops.push(text)

    def _piece(self, out: list[str], delta: Delta, finish: Finish | None) -> Piece:
        text = "".join(out)
        self._sent += len(text)
        everything = finish is not None and self._stops.found is None
        draws = []
        while self._waiting and (everything or self._waiting[0][0] < self._sent):
            draws.append(self._waiting.popleft())
        return Piece(text, tuple(draws), len(delta.tokens), finish)


def _incomplete(text: str, held_tokens: int) -> int:
    """Replacement characters at the end that later tokens may turn into a character."""
    count = len(text) - len(text.rstrip(REPLACEMENT))
    if held_tokens <= _MOST_INCOMPLETE:
        return count
    return min(count, _MOST_INCOMPLETE) if held_tokens <= _MOST_HELD else 0
