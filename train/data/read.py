"""Read the files of a run: in this process, or over a cluster through Ray Data.

Both ways call the same pure functions (`train.data.rows`), whose results are put in the order of
the files at the end, so that both give the same digest. A file on this machine is read on this
machine, wherever its rows are tokenised then; a URI is read by any worker.
"""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ironcliw.errors import IroncliwError, SettingsError
from train.data.options import DataOptions
from train.data.prepare import DataReport, Prepared, prepare
from train.data.problems import SHOWN, DataProblem, raise_if_any
from train.data.rows import Block, TokenBlock, blocks_of, tokenize_block
from train.data.sources import are_small, expand, is_remote, read_bytes
from train.tokenizer import TrainingTokenizer

logger = logging.getLogger(__name__)

Tokenizing = Callable[[Sequence[str], DataOptions, TrainingTokenizer], Iterable[TokenBlock]]
"""Files to the blocks of all of them, in any order."""


def in_process(
    files: Sequence[str], options: DataOptions, tokenizer: TrainingTokenizer
) -> Iterator[TokenBlock]:
    """One file after the other, here: for what takes seconds."""
    for number, file in enumerate(files):
        for block in _blocks(file, number):
            yield tokenize_block(block, options, tokenizer)


def with_ray_data(
    files: Sequence[str], options: DataOptions, tokenizer: TrainingTokenizer
) -> Iterator[TokenBlock]:
    """Over the cluster that Ray is connected to; blocks of a file are tokenised at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    work = ray.put(pickle.dumps((options, tokenizer)))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    for remote, place in ((False, here), (True, "DEFAULT")):
        items = [
            {"file": file, "number": number}
            for number, file in enumerate(files)
            if is_remote(file) == remote
        ]
        if items:
            read = ray.data.from_items(items, override_num_blocks=len(items))
            parsed = read.flat_map(_parsed, scheduling_strategy=place)
            # a task for each: the rows of one long file are tokenised by all workers
            single = parsed.repartition(target_num_rows_per_block=1)
            tokenized = single.map(functools.partial(_tokenized, work=work))
            for row in tokenized.iter_rows():
                yield _result(row["tokens"])


def how_to_read(options: DataOptions) -> Tokenizing:
    """In this process where all files of a run, held-out ones too, are here and small.

    Raises:
        DataError: a path leads to no file.
    """
    files = expand((*options.train, *options.eval))
    return in_process if are_small(files) else with_ray_data


def read_data(
    options: DataOptions, tokenizer: TrainingTokenizer, how: Tokenizing = in_process
) -> Prepared:
    """Everything that a run needs of its data.

    What is left out is logged as a warning with its first places.

    Args:
        options: Which files, and what to do with them.
        tokenizer: Of the model.
        how: `in_process` or `with_ray_data`.

    Raises:
        DataError: the data has problems, all of which were looked for; or no file is there.
        SettingsError: `max_length` is more than the model can read.
        ModelLoadError: the data needs a chat template or an end token that the model has not.
    """
    found = examine(options, tokenizer, how)
    reports = [report for report in (found.report, found.eval_report) if report is not None]
    raise_if_any([problem for report in reports for problem in report.problems])
    for report in reports:
        _log(report)
    return found


def examine(
    options: DataOptions, tokenizer: TrainingTokenizer, how: Tokenizing = in_process
) -> Prepared:
    """As `read_data`, with the problems in the reports instead of an error."""
    if tokenizer.context is not None and options.max_length > tokenizer.context:
        raise SettingsError(
            f"data.max_length is {options.max_length}, and {tokenizer.model} reads at most "
            f"{tokenizer.context} tokens; lower it"
        )
    files = expand(options.train)
    if not options.eval:
        return prepare(files, how(files, options, tokenizer), options)[0]
    eval_files = expand(options.eval)
    held_out, keys = prepare(eval_files, how(eval_files, options, tokenizer), options)
    blocks = how(files, options, tokenizer)
    found, _ = prepare(files, blocks, options, held_out=keys)
    return replace(found, eval=held_out.train, eval_report=held_out.report)


def _blocks(file: str, number: int) -> Iterator[Block]:
    try:
        content = read_bytes(file)
    except OSError as error:
        problem = DataProblem(
            file,
            0,
            "unreadable-file",
            f"it cannot be read ({error.strerror or error})",
            "correct the path, or the rights of this user",
        )
        yield Block(file, number, 0, (problem,))
        return
    yield from blocks_of(file, number, content)


def _parsed(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a file, as Ray Data carries them between processes.

    Our errors travel as results: raised in a worker, they would come back as Ray's.
    """
    try:
        return [{"block": pickle.dumps(one)} for one in _blocks(item["file"], item["number"])]
    except IroncliwError as error:
        return [{"block": pickle.dumps(error)}]


def _tokenized(item: Mapping[str, Any], work: Any) -> dict[str, Any]:
    block = pickle.loads(item["block"])
    if isinstance(block, IroncliwError):
        return {"tokens": item["block"]}
    options, tokenizer = _unpickled(work)
    try:
        return {"tokens": pickle.dumps(tokenize_block(block, options, tokenizer))}
    except IroncliwError as error:
        return {"tokens": pickle.dumps(error)}


def _result(carried: bytes) -> TokenBlock:
    found: TokenBlock | IroncliwError = pickle.loads(carried)
    if isinstance(found, IroncliwError):
        raise found
    return found


@functools.lru_cache(maxsize=1)
def _unpickled(work: Any) -> tuple[DataOptions, TrainingTokenizer]:
    """Options and tokenizer, kept by the process: to unpickle one takes as long as a block."""
    import ray

    found: tuple[DataOptions, TrainingTokenizer] = pickle.loads(ray.get(work))
    return found


def _log(report: DataReport) -> None:
    for rule, count in report.left_out.items():
        places = [problem.place for problem in report.problems if problem.rule == rule]
        more = ", ..." if len(places) > SHOWN else ""
        logger.warning(
            "%d of %d rows are left out (%s): %s%s",
            count,
            report.rows,
            rule,
            ", ".join(places[:SHOWN]),
            more,
        )
    cut = sum(problem.rule == "over-length" for problem in report.problems)
    cut -= report.left_out.get("over-length", 0)
    if cut:
        logger.warning("%d of %d rows are cut to max_length", cut, report.rows)
    if report.ignored:
        keys = ", ".join(f"{key} ({count} rows)" for key, count in report.ignored.items())
        logger.warning("keys that nothing reads: %s", keys)
    if report.duplicates and "duplicate" not in report.left_out:
        logger.warning("%d of %d rows are duplicates", report.duplicates, report.rows)
    if report.in_eval and "in-eval-too" not in report.left_out:
        logger.warning("%d of %d rows are held out too", report.in_eval, report.rows)
