"""Tokenised rows to what is trained on and what is held out. Pure.

Decided here is what needs all rows at once: mixed forms, duplicates, the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from train.data.masks import TokenRow
from train.data.options import DataOptions
from train.data.problems import DataProblem, counts_by_rule
from train.data.rows import Row, TokenBlock
from train.data.split import first_places, is_held_out, shared
from train.data.tokenized import TokenizedData


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was found in one set of files.

    Attributes:
        rows: Records in the files, sound or not.
        problems: In the order of the files.
        ignored: Keys that nothing reads, and in how many rows each was.
        lengths: Tokens of each row that could be tokenised, before any cut.
        duplicates: Rows whose content stands before, but for white space.
        in_eval: Rows whose content is held out too.
        left_out: Rows that are not trained on and not held out, by rule.
    """

    rows: int
    problems: tuple[DataProblem, ...]
    ignored: dict[str, int]
    lengths: tuple[int, ...]
    duplicates: int = 0
    in_eval: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def stopping(self) -> int:
        """How many of the problems stop a run."""
        return sum(problem.stops for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data that is ready to be trained on.

    Attributes:
        train: Its rows.
        eval: What is held out; None: nothing is.
        report: What was found in the files to train on.
        eval_report: And in those of `eval`; None: there are none.
    """

    train: TokenizedData
    eval: TokenizedData | None
    report: DataReport
    eval_report: DataReport | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A row and the place of its file."""

    file: int
    row: Row


def prepare(
    files: Sequence[str],
    blocks: Iterable[TokenBlock],
    options: DataOptions,
    *,
    held_out: Collection[bytes] = (),
) -> tuple[Prepared, frozenset[bytes]]:
    """Take all blocks of a set of files together.

    Args:
        files: Names, in their order.
        blocks: Of all files, in any order.
        options: Of which `deduplicate`, `eval_share` and `invalid_rows` count here.
        held_out: Keys of rows that are held out by files of their own.

    Returns:
        The data, and the keys of its rows.
    """
    ordered = sorted(blocks, key=lambda block: (block.file_number, block.number))
    ignored: Counter[str] = Counter()
    for block in ordered:
        ignored.update(block.ignored)
    placed = [_Placed(block.file_number, row) for block in ordered for row in block.rows]
    placed = _without_mixed(placed, files, options)
    placed, duplicates = _without_duplicates(placed, files, options)
    placed, in_eval = _without_held_out(placed, files, options, held_out)
    kept = [(one, one.row.tokens) for one in placed if one.row.tokens is not None]
    out = [is_held_out(one.row.split_key, options.eval_share) for one, _ in kept]
    lost = [one.row.problem for one in placed if one.row.tokens is None and one.row.problem]
    report = DataReport(
        # a problem of a whole file stands for no row
        rows=sum(one.row.line > 0 for one in placed),
        problems=tuple(one.row.problem for one in placed if one.row.problem is not None),
        ignored=dict(ignored.most_common()),
        lengths=tuple(one.row.length for one in placed if one.row.length),
        duplicates=duplicates,
        in_eval=in_eval,
        left_out=counts_by_rule(lost),
    )
    train = _data([one for one, is_out in zip(kept, out, strict=True) if not is_out], files)
    evaluated = _data([one for one, is_out in zip(kept, out, strict=True) if is_out], files)
    prepared = Prepared(train, evaluated if len(evaluated) else None, report)
    return prepared, frozenset(one.row.key for one, _ in kept)


def _without_mixed(
    placed: list[_Placed], files: Sequence[str], options: DataOptions
) -> list[_Placed]:
    """Rows of another form than the first of their file: somebody has joined two files."""
    first: dict[int, Row] = {}
    result = []
    for one in placed:
        row = one.row
        if row.format is not None:
            before = first.setdefault(one.file, row)
            if row.format != before.format:
                row = _left_out(
                    row,
                    DataProblem(
                        files[one.file],
                        row.line,
                        "mixed-schema",
                        f"the row is of the format {row.format}, line {before.line} of the same "
                        f"file of {before.format}",
                        "keep one format a file",
                        stops=options.invalid_rows == "error",
                    ),
                )
        result.append(_Placed(one.file, row))
    return result


def _without_duplicates(
    placed: list[_Placed], files: Sequence[str], options: DataOptions
) -> tuple[list[_Placed], int]:
    sound = [number for number, one in enumerate(placed) if one.row.tokens is not None]
    firsts = first_places(placed[number].row.key for number in sound)
    result = list(placed)
    count = 0
    for at, first in enumerate(firsts):
        if at == first:
            continue
        count += 1
        one, before = placed[sound[at]], placed[sound[first]]
        advice = "it is left out" if options.deduplicate else "set deduplicate to leave it out"
        problem = DataProblem(
            files[one.file],
            one.row.line,
            "duplicate",
            f"the row is that of {files[before.file]}:{before.row.line} but for white space",
            advice,
            stops=False,
        )
        result[sound[at]] = _Placed(one.file, _marked(one.row, problem, out=options.deduplicate))
    return result, count


def _without_held_out(
    placed: list[_Placed],
    files: Sequence[str],
    options: DataOptions,
    held_out: Collection[bytes],
) -> tuple[list[_Placed], int]:
    flags = shared((one.row.key for one in placed), held_out)
    result = []
    count = 0
    for one, is_there in zip(placed, flags, strict=True):
        row = one.row
        if is_there and row.tokens is not None:
            count += 1
            advice = "it is left out" if options.deduplicate else "set deduplicate to leave it out"
            found = "the row is held out too: a measure on it would say nothing"
            problem = DataProblem(
                files[one.file], row.line, "in-eval-too", found, advice, stops=False
            )
            row = _marked(row, problem, out=options.deduplicate)
        result.append(_Placed(one.file, row))
    return result, count


def _marked(row: Row, problem: DataProblem, *, out: bool) -> Row:
    """With a problem, unless the row has one already that says more."""
    if out:
        return _left_out(row, problem)
    return row if row.problem is not None else replace(row, problem=problem)


def _left_out(row: Row, problem: DataProblem) -> Row:
    return replace(row, tokens=None, problem=problem)


def _data(rows: Sequence[tuple[_Placed, TokenRow]], files: Sequence[str]) -> TokenizedData:
    return TokenizedData.of_rows(
        [tokens for _, tokens in rows], [(one.file, one.row.line) for one, _ in rows], files
    )
