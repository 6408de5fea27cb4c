"""From a file's bytes to tokenised rows: the pure functions that both ways of reading call.

A file is parsed whole, since only that tells where its rows begin; its records are then tokenised
in blocks, which may be done anywhere and in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from train.data.examples import (
    Example,
    Preference,
    TextGroup,
    answers,
    content_key,
    split_key,
)
from train.data.filters import check_quality
from train.data.formats import to_example
from train.data.groups import longest_text, tokenize_group
from train.data.masks import TokenRow, tokenize
from train.data.options import DataOptions, FormatName
from train.data.pairs import cut, length_of, tokenize_pair
from train.data.problems import DataProblem, RowError, Rule
from train.data.records import Record, parse
from train.embedding.tokenizer import EncoderTokenizer
from train.tokenizer import TrainingTokenizer

BLOCK_ROWS = 256
"""Records of a block: some tenths of a second of tokenising."""


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one file that follow each other.

    Attributes:
        file: Name of the file.
        file_number: Its place among the files.
        number: Place of the block in the file.
        items: Records, and problems in the places of records that could not be read.
    """

    file: str
    file_number: int
    number: int
    items: tuple[Record | DataProblem, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one record.

    Attributes:
        line: Where it starts.
        format: The form that it had; None where it was not understood.
        key: Of its content; empty where it was not understood.
        split_key: What decides whether it is held out.
        tokens: None: it is left out, for the reason that `problem` gives.
        length: Tokens before any cut; 0 where it was not tokenised.
        problem: What is wrong with it, if anything is.
    """

    line: int
    format: FormatName | None = None
    key: bytes = b""
    split_key: bytes = b""
    tokens: TokenRow | None = None
    length: int = 0
    problem: DataProblem | None = None


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """The rows of a block, in its order.

    Attributes:
        file_number: Place of the file among the files.
        number: Place of the block in the file.
        rows: One a record.
        ignored: Keys that nothing reads, and how often each was there.
    """

    file_number: int
    number: int
    rows: tuple[Row, ...]
    ignored: Counter[str] = field(default_factory=Counter)


def blocks_of(file: str, file_number: int, content: bytes) -> Iterator[Block]:
    """Parse a file into blocks; an empty one gives a block with that problem."""
    items: list[Record | DataProblem] = []
    number = 0
    for item in parse(file, content):
        items.append(item)
        if len(items) == BLOCK_ROWS:
            yield Block(file, file_number, number, tuple(items))
            items, number = [], number + 1
    if items:
        yield Block(file, file_number, number, tuple(items))
    elif number == 0:
        empty = DataProblem(file, 0, "no-rows", "it has no rows", "remove the file, or fill it")
        yield Block(file, file_number, 0, (empty,))


def tokenize_block(block: Block, options: DataOptions, tokenizer: TrainingTokenizer) -> TokenBlock:
    """Tokenise the records of a block.

    Raises:
        ModelLoadError: they are conversations and the model has no chat template, or a prompt and
            the model has no token that ends a text.
    """
    ignored: Counter[str] = Counter()
    rows = []
    for item in block.items:
        if isinstance(item, DataProblem):
            rows.append(Row(item.line, problem=_softened(item, options)))
        else:
            rows.append(_row(block.file, item, options, tokenizer, ignored))
    return TokenBlock(block.file_number, block.number, tuple(rows), ignored)


def _row(
    file: str,
    record: Record,
    options: DataOptions,
    tokenizer: TrainingTokenizer,
    ignored: Counter[str],
) -> Row:
    row = Row(record.line)
    try:
        is_encoder = isinstance(tokenizer, EncoderTokenizer)
        found = to_example(record.value, options, groups=is_encoder)
        ignored.update(found.ignored)
        key, split = content_key(found.example), split_key(found.example)
        row = replace(row, format=found.format, key=key, split_key=split)
        tokens = _tokens(found.example, options, tokenizer)
        row = replace(row, length=longest_text(tokens) if is_encoder else length_of(tokens))
        if row.length > options.max_length:
            return _too_long(
                file, row, options, lambda: _cut(found.example, tokens, options, tokenizer)
            )
        count = len(tokens.tokens) if is_encoder else int(tokens.supervised.sum())
        check_quality(answers(found.example), count, options.filters)
    except RecursionError:
        deep = RowError("bad-messages", "the row is nested too deeply", "flatten it")
        return replace(row, problem=_softened(deep.at(file, record.line), options))
    except RowError as error:
        problem = _softened(error.at(file, record.line), options)
        if error.rule == "over-length" and options.over_length != "error":
            problem = replace(problem, stops=False)
        return replace(row, problem=problem)
    return replace(row, tokens=tokens)


def _tokens(example: Example, options: DataOptions, tokenizer: TrainingTokenizer) -> TokenRow:
    if isinstance(example, TextGroup):
        assert isinstance(tokenizer, EncoderTokenizer)
        return tokenize_group(example, tokenizer)
    if isinstance(example, Preference):
        return tokenize_pair(example, tokenizer, plain_text=options.plain_text)
    return tokenize(example, tokenizer, plain_text=options.plain_text)


def _cut(
    example: Example, tokens: TokenRow, options: DataOptions, tokenizer: TrainingTokenizer
) -> TokenRow:
    """The row in `max_length` tokens; of texts that are compared, each text."""
    if isinstance(example, TextGroup):
        assert isinstance(tokenizer, EncoderTokenizer)
        return tokenize_group(example, tokenizer, options.max_length)
    return cut(tokens, options.max_length)


def _too_long(file: str, row: Row, options: DataOptions, shorten: Callable[[], TokenRow]) -> Row:
    found = f"the row has {row.length} tokens, more than max_length, {options.max_length}"
    kept: TokenRow | None = None
    rule: Rule = "over-length"
    if options.over_length == "error":
        advice = "raise max_length, shorten the row, or set over_length to drop or truncate"
    elif options.over_length == "drop":
        advice = "it is left out (over_length is drop)"
    else:
        most = options.max_length
        advice = f"its last {row.length - most} tokens are cut (over_length is truncate)"
        try:
            kept = shorten()
        except RowError as error:
            # such as answers that are equal where they are cut: counted with their like
            advice, rule = f"{error.given}: {error.advice}", error.rule
    stops = options.over_length == "error"
    problem = DataProblem(file, row.line, rule, found, advice, stops)
    return replace(row, tokens=kept, problem=problem)


def _softened(problem: DataProblem, options: DataOptions) -> DataProblem:
    """What is wrong with a single row stops nothing where the run says so."""
    if options.invalid_rows == "drop" and problem.line:
        return replace(problem, stops=False)
    return problem
