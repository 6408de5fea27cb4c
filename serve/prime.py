"""`PrimeModel`: a generating model, in this process or behind a server, with a blocking interface.

    model = PrimeModel.from_pretrained("SmolLM2-135M-Instruct")
    print(model.generate("What is machine learning?", max_tokens=100))

With `endpoint` neither torch nor Ray nor transformers is imported: the base install is enough.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ironcliw.client import Client
from ironcliw.errors import RequestError, UnsupportedError
from ironcliw.settings import Settings, load_settings
from serve.generation_options import Message, Wanted, request_fields
from serve.model_paths import with_model

if TYPE_CHECKING:
    from serve.manager import TransformerManager

GENERATING = frozenset({"generation", "seq2seq"})
QUANTIZATIONS = ("8bit", "4bit")


class Backend(Protocol):
    """Where the model runs."""

    @property
    def model_id(self) -> str:
        """Its name there."""
        ...

    def stream(self, wanted: Wanted, options: dict[str, Any]) -> Generator[str]:
        """The answer in pieces; closing the generator ends the work."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class PrimeModel:
    """A generating model. Make one with `from_pretrained`; close it, or use it in a `with` block.

    Options of `generate`, `stream` and `chat`: `max_tokens` (or `max_new_tokens`; default 256),
    `temperature`, `do_sample` (False: the likeliest token each time), `top_p`, `top_k`, `seed`,
    `stop`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`, `priority`.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        quantization: str | None = None,
        endpoint: str | None = None,
        *,
        api_key: str | None = None,
        settings: Settings | None = None,
    ) -> PrimeModel:
        """Load a model, or find it on a server.

        Args:
            name_or_path: An id of the catalogue, a folder as transformers saves it, or a GGUF file.
            quantization: `8bit` or `4bit`: quantise the weights when they are loaded.
            endpoint: Base URL of a server that has the model, e.g. `http://127.0.0.1:8000`; None:
                load it into this process.
            api_key: For the endpoint; None: the setting `client.api_key`.
            settings: Memory budget, device and models; None: from file and environment.

        Raises:
            RequestError: the quantization is unknown or goes with an endpoint, or the model
                generates no text.
            ModelNotFoundError: the name is neither a known model nor a path.
            ModelLoadError: the files are absent, damaged or unsupported; for a model without a
                source the message names the setting.
            UnsupportedError: it is a vision model.
            MemoryBudgetError: the budget has no room for it.
        """
        if quantization is not None and quantization not in QUANTIZATIONS:
            raise RequestError(
                f"quantization is {quantization!r}; give None, '8bit' or '4bit'",
                param="quantization",
            )
        if endpoint is None:
            return cls(_InProcess(name_or_path, quantization, settings or load_settings()))
        if quantization is not None:
            raise RequestError(
                f"quantization is {quantization!r}, which the server at {endpoint} decides: set "
                f"models.{name_or_path}.quantization there, and leave it out here",
                param="quantization",
            )
        return cls(_Remote(str(name_or_path), endpoint, api_key))

    @property
    def model_id(self) -> str:
        """The name under which the model runs."""
        return self._backend.model_id

    def __repr__(self) -> str:
        return f"PrimeModel({self._backend})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model, or close the connections; it cannot be used afterwards."""
        self._backend.close()

    def generate(
        self, prompt: str, *, raw: bool = False, system: str | None = None, **options: Any
    ) -> str:
        """The model's answer.

        Args:
            prompt: A model with a chat template reads it as one message of the user and answers
                it; any other model goes on with the text.
            raw: Go on with the text as it is, whatever the model.
            system: What the model should be; needs a chat template.
            options: See the class.

        Raises:
            RequestError, ContextLengthError: the request breaks a rule.
            UnavailableError: the model was closed, or its server is away.
        """
        return "".join(self.stream(prompt, raw=raw, system=system, **options))

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        system: str | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The same, piece by piece as it is made; messages are read as `chat` does.

        Nothing is done before the first piece is asked for. Leaving the loop ends the work.
        """
        wanted = Wanted.of(prompt, raw=raw, system=system)
        with closing(self._backend.stream(wanted, options)) as pieces:
            yield from pieces

    def chat(self, messages: Sequence[Message], **options: Any) -> str:
        """The answer to a conversation: each message has `role` and `content`.

        Raises:
            RequestError: the model has no chat template, or the request breaks a rule.
        """
        return "".join(self.stream(messages, **options))


class _Remote:
    """A model of a server."""

    def __init__(self, model_id: str, endpoint: str, api_key: str | None) -> None:
        self.model_id = model_id
        self._client = Client(endpoint, api_key)
        self._has_template = True  # until the server says otherwise
        try:
            found = self._client.model(model_id)
            _require_generation(model_id, found.task)
        except BaseException:
            self._client.close()
            raise
        self._context = found.context

    def __str__(self) -> str:
        return f"{self.model_id!r}, endpoint={self._client!r}"

    def stream(self, wanted: Wanted, options: dict[str, Any]) -> Generator[str]:
        """The answer in pieces."""
        fields: Any = {**request_fields(options, self._context), "model": self.model_id}
        if wanted.messages is not None and (self._has_template or wanted.text is None):
            try:
                with self._client.stream_chat(wanted.messages, **fields) as pieces:
                    yield from pieces
                return
            except RequestError as error:
                # refused before the first piece, so nothing comes twice
                if not wanted.may_complete(error):
                    raise
                self._has_template = False
        assert wanted.text is not None
        with self._client.stream(wanted.text, **fields) as pieces:
            yield from pieces

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _InProcess:
    """A model in this process, on the engines that the service has."""

    def __init__(
        self, name_or_path: str | Path, quantization: str | None, settings: Settings
    ) -> None:
        # imported here: a model behind a server needs neither
        from serve.loop_thread import LoopThread
        from serve.manager import TransformerManager

        # first as it is: whether it can be quantised matters only where it generates
        _, card = with_model(settings, name_or_path, None)
        _require_generation(card.id, card.task)
        settings, card = with_model(settings, name_or_path, quantization)
        self.model_id = card.id
        self._loop = LoopThread("prime-model")
        weakref.finalize(self, self._loop.close, wait=False).atexit = False
        try:
            self._manager = self._loop.run(_opened(TransformerManager, settings, card.id))
        except BaseException:
            self._loop.close()
            raise
        self._loop.at_end(self._manager.close)

    def __str__(self) -> str:
        return repr(self.model_id)

    def stream(self, wanted: Wanted, options: dict[str, Any]) -> Generator[str]:
        """The answer in pieces."""
        return self._loop.iterate(self._manager.stream_wanted(wanted, self.model_id, options))

    def close(self) -> None:
        """Free the model."""
        self._loop.close()


async def _opened(
    make: Callable[[Settings], TransformerManager], settings: Settings, model_id: str
) -> TransformerManager:
    """A manager, made in the loop that it belongs to, with the model loaded."""
    manager = make(settings)
    try:
        await manager.load_model(model_id, pin=True)
    except BaseException:
        await manager.close()
        raise
    return manager


def _require_generation(model_id: str, task: str) -> None:
    if task == "vision":
        raise UnsupportedError(
            f"{model_id!r} is a vision model: vision models are not supported yet; give a model "
            "that reads text",
            param="model",
        )
    if task not in GENERATING:
        raise RequestError(
            f"model {model_id!r} is for {task}, not for generation; `ironcliw models` lists the "
            "task of each",
            param="model",
        )
