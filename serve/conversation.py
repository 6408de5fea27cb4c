"""`ironcliw chat` at work: one answer, or a conversation with the person at the terminal."""

from __future__ import annotations

import contextlib
import sys

from ironcliw import console
from ironcliw.client import Client, Completion, GenerationOptions, Served
from ironcliw.errors import ContextLengthError, IroncliwError, NotRunningError

DEFAULT_ANSWER_TOKENS = 512
"""Of an answer whose length nobody set: a small model may never come to an end by itself."""

_HELP = "Ctrl-C stops an answer; /reset forgets what was said; /quit or Ctrl-D ends"


class Conversation:
    """What was said so far, and the way to go on.

    Args:
        client: Asks the server.
        model: Who answers.
        system: Put before everything; None: nothing.
        options: How each answer is made; without `max_tokens` it has `DEFAULT_ANSWER_TOKENS`, or
            what the model holds where that is less.
        streaming: Write an answer as it is made.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        system: str | None,
        options: GenerationOptions,
        *,
        streaming: bool,
    ) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._length: int | None = None
        if options.get("max_tokens") is None:
            self._length = DEFAULT_ANSWER_TOKENS
        self._streaming = streaming
        self._start = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        """Forget all but the system's message."""
        self.messages = list(self._start)

    def ask(self, text: str, *, quiet: bool = False) -> Completion | None:
        """Send a message, write the answer and remember both.

        What is stopped by Ctrl-C counts as said as far as it came; what fails is not remembered.

        Args:
            text: Of the user.
            quiet: Do not write the answer.

        Returns:
            The whole answer; None where it was streamed.
        """
        said = [*self.messages, {"role": "user", "content": text}]
        try:
            return self._ask(said, quiet)
        except ContextLengthError as error:
            if self._length is None or error.param != "max_tokens":
                raise
            self._length = None  # more than this model holds in all: its own limit is the smaller
            return self._ask(said, quiet)

    def _ask(self, said: list[dict[str, str]], quiet: bool) -> Completion | None:
        if self._streaming:
            pieces: list[str] = []
            try:
                self._stream(said, pieces)
            except KeyboardInterrupt:
                self._remember(said, "".join(pieces))
                raise
            self._remember(said, "".join(pieces))
            return None
        answer = self._client.chat(said, model=self._model, **self._wanted())
        if not quiet:
            console.write_line(answer.text)
        write_notes(answer.finish_reason, answer.served)
        self._remember(said, answer.text)
        return answer

    def _stream(self, said: list[dict[str, str]], pieces: list[str]) -> None:
        """Write the pieces as they come, and collect them."""
        failed = False
        with self._client.stream_chat(said, model=self._model, **self._wanted()) as stream:
            try:
                for piece in stream:
                    pieces.append(piece)
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            except IroncliwError:
                failed = True
                raise
            finally:
                # a refusal before the first piece leaves standard output empty
                if not (pieces[-1].endswith("\n") if pieces else failed):
                    console.write_line("")
                    sys.stdout.flush()
            write_notes(stream.finish_reason, stream.served)

    def _wanted(self) -> GenerationOptions:
        options: GenerationOptions = {**self._options}
        if self._length is not None:
            options["max_tokens"] = self._length
        return options

    def _remember(self, said: list[dict[str, str]], answer: str) -> None:
        if answer:
            self.messages = [*said, {"role": "assistant", "content": answer}]


def converse(talk: Conversation) -> None:
    """Talk with the person at the terminal until they leave."""
    with contextlib.suppress(ImportError):  # where it is, it gives `input` history and editing
        import readline  # noqa: F401
    console.note(_HELP)
    while (line := _read_line()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            talk.reset()
        elif line.startswith("/"):
            console.note(f"{line.split()[0]} is no command; {_HELP}")
        elif line:
            _turn(talk, line)


def _turn(talk: Conversation, line: str) -> None:
    try:
        talk.ask(line)
    except KeyboardInterrupt:
        console.note("stopped")
    except NotRunningError:
        raise
    except IroncliwError as error:
        # the next message may do better, e.g. a shorter one, or after /reset
        console.report_error(error, as_json=False)


def _read_line() -> str | None:
    """One line of the person at the terminal; None where they leave."""
    prompt = "> "
    if not sys.stdout.isatty():
        sys.stderr.write(prompt)
        sys.stderr.flush()
        prompt = ""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        console.note("")
        return None


def write_notes(finish_reason: str | None, served: Served | None) -> None:
    """What the person should know beside the answer."""
    if finish_reason == "length":
        console.note(
            f"the answer was cut: --max-tokens (unset: {DEFAULT_ANSWER_TOKENS}), or the model's "
            "context, was reached"
        )
    if served is not None and served.degraded:
        console.note(f"degraded: {served.degraded}")
