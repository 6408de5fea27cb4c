"""Examples to tokens, and which of them the model shall learn to write.

The mask of a conversation is found by prefix differences, which needs nothing of the template: the
conversation up to an answer is rendered with what opens the answer, then with the answer, and what
the second has more is the answer with its end of turn. What a template writes after the end of a
turn (a line break, mostly) is never generated, and so is not learnt. Tokens after the last
supervised one are left out: no loss and no gradient depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ModelLoadError, RequestError, RequestTooLargeError
from train.data.examples import Completion, Conversation, Text
from train.data.problems import RowError, shortened
from train.tokenizer import TrainingTokenizer


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as the model reads it.

    Attributes:
        tokens: int32 [T].
        supervised: bool [T]; where the token is one that the model shall write. Never the first,
            which nothing precedes.
        borders: Of a preference: where the chosen answer begins, and where the rejected one does.
            What precedes the first belongs to both.
        starts: Of texts that are compared by their vectors: where each begins, the anchor at 0.
        labelled: Of such texts: whether the second is the name of a label.
    """

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    borders: tuple[int, int] | None = None
    starts: tuple[int, ...] | None = None
    labelled: bool = False


def tokenize(
    example: Conversation | Completion | Text,
    tokenizer: TrainingTokenizer,
    *,
    plain_text: bool = False,
) -> TokenRow:
    """Tokens and mask of an example.

    Args:
        example: What it says.
        tokenizer: Of the model.
        plain_text: Join prompt and completion as they are although there is a chat template.

    Raises:
        RowError: the template refuses the example, or no mask can be found.
        ModelLoadError: a conversation, and the model has no chat template.
    """
    if isinstance(example, Text):
        return _of_completion(Completion("", example.text), tokenizer)
    if isinstance(example, Completion):
        if plain_text or not tokenizer.has_template:
            return _of_completion(example, tokenizer)
        example = example.as_conversation()
    return _of_conversation(example, tokenizer)


def _of_conversation(example: Conversation, tokenizer: TrainingTokenizer) -> TokenRow:
    taught = [index for index, flag in enumerate(example.supervised) if flag]
    whole = _render(example, tokenizer, taught[-1] + 1, opened=False)
    befores = [_render(example, tokenizer, index, opened=True) for index in taught]
    afters = [_render(example, tokenizer, index + 1, opened=False) for index in taught[:-1]]
    afters.append(whole)
    for index, before, after in zip(taught, befores, afters, strict=True):
        _check_prefix(index, before, whole)
        _check_prefix(index, after, whole)
    tokens, spans = _encoded(whole, befores, afters, tokenizer)
    supervised = np.zeros(len(tokens), np.bool_)
    for index, (start, stop) in zip(taught, spans, strict=True):
        supervised[start : _end_of_turn(tokens, start, stop, index, tokenizer)] = True
    return _row(tokens, supervised)


def _encoded(
    whole: str, befores: list[str], afters: list[str], tokenizer: TrainingTokenizer
) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens of the whole, and where in them the answers lie."""
    # the last answer ends where the whole does
    tokens, *parts = tokenizer.encode([whole, *befores, *afters[:-1]], special=False)
    parts.append(tokens)
    if all(tokens[: len(part)] == part for part in parts):
        lengths = [len(part) for part in parts]
        return tokens, list(zip(lengths[: len(befores)], lengths[len(befores) :], strict=True))
    # A token lies over the border of an answer, such as one for the line break that opens it and
    # a line break that it begins with. In serving the border is always there, since the prompt is
    # encoded alone; so it is put in here.
    cuts = sorted({0, *map(len, befores), *map(len, afters)})
    texts = [whole[start:end] for start, end in pairwise(cuts)]
    pieces = tokenizer.encode(texts, special=False)
    joined = [token for piece in pieces for token in piece]
    if tokenizer.text(joined) != tokenizer.text(tokens):
        raise RowError(
            "prompt-not-prefix",
            "the tokens of an answer and of what opens it run into each other, and the tokenizer "
            "cannot encode them apart",
            "begin the answer with a letter, or use a template that ends what opens an answer "
            "with a special token",
        )
    at = dict(zip(cuts, accumulate(map(len, pieces), initial=0), strict=True))
    return joined, [(at[len(b)], at[len(a)]) for b, a in zip(befores, afters, strict=True)]


def _render(
    example: Conversation, tokenizer: TrainingTokenizer, count: int, *, opened: bool
) -> str:
    """The first turns as text, with what opens the next answer if it is wanted."""
    try:
        text = tokenizer.render(
            example.messages[:count],
            add_generation_prompt=opened,
            tools=example.tools,
            values=example.values,
        )
        text.encode()
    except UnicodeEncodeError:
        raise RowError(
            "bad-utf8", "a value holds half of a surrogate pair", "write the whole character"
        ) from None
    except RequestTooLargeError as error:
        raise RowError("over-length", error.message, "shorten the row") from error
    except (RequestError, ModelLoadError) as error:
        if error.code == "no_chat_template":
            raise
        raise RowError(
            "template-refuses", error.message, "change the messages, or give another chat_template"
        ) from error
    return text


def _check_prefix(index: int, part: str, whole: str) -> None:
    if whole.startswith(part):
        return
    at = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), 0)
    raise RowError(
        "prompt-not-prefix",
        f"the template writes message {index + 1} or what precedes it in another way once more "
        f"follows: {shortened(part[at : at + 40])} becomes {shortened(whole[at : at + 40])}",
        "set train_on to last, or give a chat_template that keeps earlier turns as they were",
    )


def _end_of_turn(
    tokens: Sequence[int], start: int, stop: int, index: int, tokenizer: TrainingTokenizer
) -> int:
    """Where the answer between two places ends, its end of turn included."""
    if not tokenizer.end_tokens:
        return stop
    ends = [at for at in range(start, stop) if tokens[at] in tokenizer.end_tokens]
    if not ends:
        raise RowError(
            "no-end-of-turn",
            f"the template writes none of the model's end tokens after message {index + 1}",
            "give a chat_template that ends answers with one, such as eos_token: the model would "
            "not learn to stop",
        )
    return ends[-1] + 1


def _of_completion(example: Completion, tokenizer: TrainingTokenizer) -> TokenRow:
    if not tokenizer.end_tokens:
        raise ModelLoadError(
            f"model {tokenizer.model!r} names no token that ends a text; add eos_token to its "
            "tokenizer_config.json",
            code="no_end_token",
        )
    end = tokenizer.end_tokens[0]
    texts = [example.prompt, example.prompt + example.completion]
    # some tokenizers add the end themselves
    prompt, whole = (_without(end, ids) for ids in tokenizer.encode(texts, special=True))
    # where the last token of the prompt takes a part of the completion in, it is one of these
    common = next(
        (at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(len(prompt), len(whole)),
    )
    tokens = [*whole, end]
    supervised = np.arange(len(tokens)) >= common
    return _row(tokens, supervised)


def _without(end: int, ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids


def _row(tokens: list[int], supervised: npt.NDArray[np.bool_]) -> TokenRow:
    supervised[:1] = False  # nothing precedes it that could foretell it
    places = np.flatnonzero(supervised)
    if not len(places):
        raise RowError(
            "zero-supervised", "no token is supervised", "fill the answer, or remove the row"
        )
    count = int(places[-1]) + 1
    return TokenRow(np.array(tokens[:count], np.int32), supervised[:count])
