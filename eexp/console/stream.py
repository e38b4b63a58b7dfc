"""The input and the output of one command: records in and out, rejects, resume, and the summary.

One record at a time is in memory, except for the ids that a resumed run has already written. Every line is flushed as
soon as it is whole, so the next stage of a pipe starts at once, and a killed run loses only the line it was writing.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from eexp.errors import EXIT_OK, EXIT_SET_ASIDE, EexpError, InputError, ServerFailed, Terminated, UsageError
from eexp.records import record as records
from eexp.records.jsonl import (
    STDIN,
    dumps,
    elements,
    lines,
    loads,
    open_to_write,
    refuse_to_overwrite,
)
from eexp.records.shards import (
    LinesDigest,
    Mark,
    Shard,
    ShardEnd,
    Share,
    cut_ends,
    key_of,
    mark_of,
    marked,
    parse_end,
    parse_mark,
    part_refused,
    without_mark,
)
from eexp.records.types import check
from eexp.system import terminal
from eexp.system.terminal import Progress, tell

if TYPE_CHECKING:
    from eexp.system.meter import Meter
    from eexp.workers.jobs import Tag
    from eexp.workers.pool import Pool

T = TypeVar("T")

_NOT_SET_ASIDE = (b'"set_aside":false}\n', b'"set_aside": false}\n')  # how a line of `Stream.keep` ends

_NUMBER = re.compile(r"\[(?:([^][|]*)\|)?([^][|]*)\]")  # [singular|plural] or [s]

#: The number of the summary that one looks for first where episodes were played.
SUCCESSES = "success[es]"
#: How many records that are set aside have a line each on standard error; -v shows all of them.
SHOWN_SET_ASIDE = 20
_SET_ASIDE_HINT = " (--rejects FILE sets such records aside)"
_RESUME_HINT = "the same command with --resume goes on"
_SHOWN_AT_0 = ("in", "out", SUCCESSES)
_SHOWN_FIRST = ("in", "done before", "out")


def in_words(n: int, what: str) -> str:
    """Return a number and what it counts, in the singular or the plural.

    Args:
        n: The number.
        what: What is counted; `[singular|plural]` stands for either of two words, and `[s]` for `[|s]`.
    """
    return f"{n} " + _NUMBER.sub(lambda forms: (forms[1] or "") if n == 1 else forms[2], what)


class Place(NamedTuple):
    """Where a record comes from.

    Attributes:
        file, line: Its file and its line, for messages; None for a task, which comes from no file.
        mark: Its place in the input of the stage with --shard; None where no stage has it.
        had_lineage: Whether it had a lineage before it got a mark.
    """

    file: str | None
    line: int | None
    mark: Mark | None = None
    had_lineage: bool = True


class Stream(AbstractContextManager):
    """The records that one command reads, writes, sets aside and counts.

    `open` names the stage and its settings; then `records()` reads, `write()` writes and `fail()` sets aside. The files
    that are written are locked until the end.

    Args:
        files, output, on_error, rejects, resume, quiet: The command-line options of the same names; on_error is "stop"
            or "skip".
        types: The types of record that `records` accepts.
        keep_rejects: Whether rejects of an earlier run are kept, as --resume keeps them.
        reports_rejects: False where another process reads the same records and reports those that are set aside.

    Attributes:
        report: A further file that the command writes, to be set before `open`.
        shard: The shard of the input that the command takes; None for all of it. To be set before `open`.
        takes_shards: Whether the command works on each record alone, so that it may read one shard of them.
        costs: A file to which a line about what the run took is added at its end, to be set before `open`.
        uses_server: Whether a server does a part of the work, to be set before `open`.
        resumable: Whether --resume goes on after an interruption, which is said then.
        also_read: Further files that the command reads, to be set before `open`.
        acts: Whether the command acts in environments, to be set before `open`.
        label: The name of the stage for the lineage where that is not its own, to be set before `open`.
        entry: The line that the stage adds to the lineage.
        counts: The numbers of the summary.
        set_aside: The number of records that were set aside.
        where: The place of the current record.
    """

    def __init__(
        self,
        files: Sequence[str] = (),
        output: str | None = None,
        on_error: str = "stop",
        rejects: str | None = None,
        resume: bool = False,
        quiet: bool = False,
        *,
        types: Sequence[str] = (),
        keep_rejects: bool = False,
        reports_rejects: bool = True,
    ):
        self.files, self.output, self.on_error, self.quiet = list(files), output, on_error, quiet
        self.rejects, self.resume, self.reports_rejects = rejects, resume, reports_rejects
        self.report: str | None = None
        self.shard: Shard | None = None
        self.takes_shards = False
        self.costs: str | None = None
        self.uses_server = False
        self.resumable = False
        self.also_read: list[str] = []
        self.acts = False
        self.label = ""
        self.stage, self.types, self.entry = "", types, ""
        self._entries: dict[str, str] = {}  # the line for records of an environment
        self.counts: Counter[str] = Counter()
        self.set_aside = 0
        self._shown = self._not_shown = 0  # records set aside that standard error has a line of, or has not
        self.where: Place | None = None
        # Address, id and place of the last records: a stage may read ahead of the record it is processing.
        self._recent: deque[tuple[int, Any, Place]] = deque(maxlen=256)
        self._output_file: BinaryIO | None = None
        self._rejects_file: BinaryIO | None = None
        self._earlier_rejects: set[bytes] = set()
        self._earlier_ids: Counter[str] = Counter()  # ids that an earlier run has written and that were not read yet
        self._has_met_earlier_id = False
        self._appends = keep_rejects  # to the files of an earlier run
        self._share: Share | None = None
        self._ends: list[ShardEnd] = []  # of the shards that were read
        self._marks: dict[str, deque[Mark]] = {}  # of tasks that were handed out, by the ids of their records
        self._written: Counter[str] = Counter()  # lines by shard, those of an earlier run included
        self._digests: defaultdict[str, LinesDigest] = defaultdict(LinesDigest)  # of those lines
        self._rejected: Counter[str] = Counter()  # the lines of the rejects by shard
        self._reject_digests: defaultdict[str, LinesDigest] = defaultdict(LinesDigest)  # of those lines
        self._earlier_shards: set[Shard | None] = set()
        self._earlier_digests: dict[int, str] = {}  # of the input, by the position of a record
        self._meter: Meter | None = None
        self._costs_file: int | None = None
        self._sizes: Counter[str] = Counter()  # of the records that are written

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self, stage: str, **settings: Any) -> Stream:
        """Open the files.

        Args:
            stage: The name of the stage.
            settings: The settings for the lineage of the records that it writes.

        Raises:
            UsageError: The files do not fit together, or the output is not that of an earlier run to resume.
            EexpError: A file cannot be opened.
        """
        self.stage = stage
        self.entry = records.lineage_entry(self.label or stage, **settings)
        if self.costs:
            from eexp.system.meter import Meter

            self._meter = Meter()
            self._costs_file = self._open_costs(self.costs)
        if self.resume and self.output in (None, "", STDIN):
            raise UsageError("--resume needs -o FILE: it goes on from what FILE already holds")
        if self.rejects and self.on_error == "stop":
            self.on_error = "skip"  # a file for rejects implies that the run is to go on
        self.refuse_to_overwrite_input()
        self._share = Share(self.shard) if self.shard else None
        self._output_file = self._open_output()
        if self.rejects:
            self._rejects_file = open_to_write(self.rejects, "ab" if self._appends else "wb")
            if self._appends and os.path.isfile(self.rejects):
                cut_ends(self.rejects)
                earlier = Path(self.rejects).read_bytes().splitlines(keepends=True)
                self._earlier_rejects = set(earlier)
                for line in earlier:
                    self._count_reject(line, _mark_of_reject(line))
        return self

    def need_all_records(self, why: str) -> None:
        """Refuse shards, because of an option with which the command does not work on each record alone.

        Args:
            why: The option, and what it does.

        Raises:
            UsageError: The command is to take a shard.
        """
        self.takes_shards = False
        if self.shard:
            raise UsageError(f"{why}; leave out --shard")

    def refuse_to_overwrite_input(self) -> None:
        """Raise UsageError where a file to write is one that is read, or two of them are one."""
        options = {"-o": self.output, "--rejects": self.rejects, "--summary": self.report, "--costs": self.costs}
        targets = {option: name for option, name in options.items() if name and name != STDIN}
        pairs = list(targets.items())
        for i, (option, name) in enumerate(pairs):
            for other_option, other_name in pairs[i + 1 :]:
                if os.path.realpath(name) == os.path.realpath(other_name):
                    raise UsageError(f"{name} is both {option} and {other_option}; give two files")
        stdout = [None] if self.output in (None, "", STDIN) else []
        refuse_to_overwrite([*targets.values(), *stdout], [*(self.files or [STDIN]), *self.also_read])

    def _open_output(self) -> BinaryIO:
        """Open the output and, with --resume, read which records it holds."""
        if not self.output or self.output == STDIN:
            return sys.stdout.buffer
        if not (self.resume and os.path.exists(self.output)):
            return open_to_write(self.output, "wb")
        if not os.path.isfile(self.output):
            raise UsageError(f"--resume cannot go on from {self.output}: not a regular file")
        self._appends = True
        file = open_to_write(self.output, "ab")
        self._load_earlier_ids(self.output)
        return file

    def _load_earlier_ids(self, output: str) -> None:
        """Read the ids of the records that an earlier run of the same command has written."""
        cut = cut_ends(output)
        if cut:
            self.note(f"removed a half-written last line ({cut} bytes) from {output}")
        for _, number, line in lines([output]):
            try:
                record = loads(line)
                last = (record.get("lineage") or [""])[-1]
                self._earlier_ids[record["id"]] += 1
            except (InputError, AttributeError, KeyError, TypeError):
                raise UsageError(
                    f"{output}:{number}: not written by `eexp {self.stage}`: remove it or give another -o"
                ) from None
            if last != self._entry_for(record):
                raise UsageError(
                    f"{output}:{number}: written by `{last}`, but this is `{self.entry}`: "
                    f"give the same options, or another -o"
                )
            mark = mark_of(record)
            if self.shard and (mark is None or mark.shard != self.shard):
                raise UsageError(
                    f"{output}:{number}: {f'of shard {mark.shard}' if mark else 'of no shard'}, but this is --shard "
                    f"{self.shard}: give another -o"
                )
            self._earlier_shards.add(mark.shard if mark else None)
            if mark:
                self._count_written(line, mark, record)
                if self.shard:
                    self._earlier_digests[mark.position] = mark.digest
        self.counts["done before"] = sum(self._earlier_ids.values())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind in (KeyboardInterrupt, Terminated):
            tell(f"{self.stage}: interrupted" + (f"; {_RESUME_HINT}" if self.resumable else ""))
        if self._output_file and not (kind and issubclass(kind, OSError)):  # whole lines, also before an error
            self._write(b"")
        if kind is None and not +self._earlier_ids:
            self._end_shards()
        for file, name in ((self._output_file, self.output), (self._rejects_file, self.rejects)):
            if file is not None and file is not sys.stdout.buffer:
                try:
                    file.close()
                except OSError as e:  # on a full disk, of which an error that is being raised tells already
                    if kind is None:
                        raise EexpError(f"{name}: {e.strerror or e}") from None
        if isinstance(error, ServerFailed) and self.resumable:
            error.args = (f"{error}; {_RESUME_HINT}",)
        if self._not_shown:
            where = f", all of them in {self.rejects}" if self.rejects else "; --rejects FILE keeps them"
            tell(f"{self.stage}: set aside: {self._not_shown:,} more{where}")
        if kind is None:
            self._check_input_is_the_same()
            if summary := self.summary():
                self.note(summary)
            self._write_costs()
            if self.exit_code:
                raise SystemExit(self.exit_code)

    def _check_input_is_the_same(self) -> None:
        """Raise UsageError where the output of an earlier run has records that the input did not lead to."""
        unmatched = +self._earlier_ids
        if unmatched:
            raise UsageError(
                f"{self.output} holds {sum(unmatched.values())} records that this input does not lead to "
                f"(first: {next(iter(unmatched))}): it was made from other input"
            )

    # -- reading -------------------------------------------------------------------------------------------------------

    def records(self, skip_done: bool = True) -> Iterator[dict]:
        """Yield the records to process, checked.

        Args:
            skip_done: Whether records that an earlier run has written are left out, by the ids that they have in the
                input. A stage that writes other ids than it reads passes False, and asks `done` with the id it writes.
        """
        for record in self._read(lines(self.files), self._check):
            if not (skip_done and self.done(record["id"])):
                yield record

    def progress(self, results: Iterable[T], unit: str, total: int | None = None) -> Iterator[T]:
        """Yield what a stage makes, and show how far it has come.

        Args:
            results: What it makes.
            unit: What one of them is called.
            total: How many there will be, where that is known.
        """
        progress = Progress(self.stage, unit, total, quiet=self.quiet)
        try:
            for result in results:
                yield result
                progress.advance()
        finally:
            progress.close()

    def foreign_records(self, pieces: Iterable[tuple[str, int, bytes]] | None = None) -> Iterator[dict]:
        """Yield the JSON objects that another program wrote.

        Args:
            pieces: The objects as (file, number, text). By default, those of the input: one a line, or the elements of
                an array.
        """
        return self._read(elements(self.files) if pieces is None else pieces, _object, ours=False)

    def earlier_records(self) -> Iterator[dict]:
        """Yield the records that an earlier run of the same command has written; none without --resume."""
        if self._appends and self.output and self.resume:
            for _, _, line in lines([self.output]):
                yield loads(line)

    def done(self, record_id: str) -> bool:
        """Return whether an earlier run has written this record already.

        Every call counts as one record, so that records with equal ids are told apart.
        """
        if self._earlier_ids.get(record_id, 0) > 0:
            self._earlier_ids[record_id] -= 1
            self._has_met_earlier_id = True
            return True
        return False

    def watch(self, pool: Pool, unit: str) -> WatchedPool:
        """Return a pool that does jobs in another one, shows how far it has come, and adds its counts to the summary.

        Args:
            pool: The pool, the tags of whose jobs are records.
            unit: What a record is called.
        """
        return WatchedPool(self, pool, unit)

    def _check(self, record: Any) -> dict:
        return check(record, *self.types)

    def _read(
        self, pieces: Iterable[tuple[str, int, bytes]], check: Callable[[Any], dict], ours: bool = True
    ) -> Iterator[dict]:
        """Yield the records in pieces of text, counted; those that fail the check are set aside.

        Records of other shards are passed over. Ends of shards are kept until the command has finished.

        Args:
            pieces: (file, number, text) for each record.
            check: Returns the record that a value is, or raises InputError.
            ours: Whether they are records of eexp, among which may be ends of shards.
        """
        for name, number, text in self._meter.reading(pieces) if self._meter else pieces:
            record: Any = None
            fault = end = None
            try:
                record = loads(text)
                end = parse_end(record) if ours else None
            except InputError as e:
                fault = e
            if end:
                if not self.takes_shards:
                    raise part_refused(f"{name}:{number}", end.shard, self.stage)
                self._ends.append(end)
                continue
            mark = self._share.mark(key_of(record, text), text) if self._share else None
            if self._share and not mark:
                continue
            self.where = Place(name, number, mark)
            self.counts["in"] += 1
            try:
                if fault:
                    raise fault
                accepted = check(record)
            except InputError as e:
                self._fail(record if record is not None else {"text": text.decode("utf-8", "replace")}, e)
                continue
            if ours:
                accepted = self._placed(accepted, self.where)
            self._recent.append((id(accepted), accepted.get("id"), self.where))
            yield accepted
        self.where = None
        if self._share:
            self._share.is_complete = True
        if not (self.counts["in"] or self._ends or (self._share and self._share.all_records)):
            self.note("no records in the input")

    def _placed(self, record: dict, place: Place) -> dict:
        """Return a record that was read, with its mark in its lineage, and set `where`.

        Raises:
            UsageError: The record is of a shard that the command cannot read, or its output is of another one.
        """
        earlier_mark, mark = mark_of(record), place.mark
        here = f"{place.file}:{place.line}"
        if mark and earlier_mark:
            raise UsageError(
                f"{here}: of shard {earlier_mark.shard} already; only the first command of a pipe takes --shard, and "
                f"`eexp merge` puts shards together"
            )
        if earlier_mark:
            if not self.takes_shards:
                raise part_refused(here, earlier_mark.shard, self.stage)
            self.where = place._replace(mark=earlier_mark)
        elif mark:
            self._check_digest(mark, here)
            self.where = place._replace(had_lineage="lineage" in record)
            record = marked(record, mark)
        shard = self.where.mark.shard if self.where and self.where.mark else None
        if self._earlier_shards and (shard is None) != (None in self._earlier_shards):
            is_of = (f"shard {shard}", "none") if shard else ("no shard", "one")
            raise UsageError(f"{here}: of {is_of[0]}, and {self.output} holds records of {is_of[1]}: give another -o")
        return record

    def _check_digest(self, mark: Mark, here: str) -> None:
        """Raise UsageError where an earlier run has read something else before a record."""
        if self._earlier_digests.pop(mark.position, mark.digest) != mark.digest:
            raise UsageError(
                f"{self.output} was made from other input: {here}, or a record before it, has changed. Give another -o"
            )

    def share(self, tasks: Iterable[T], name: Callable[[T], str], record_id: Callable[[T], str]) -> Iterator[T]:
        """Yield the tasks of the command's shard, for a command that reads no records; all of them without --shard.

        Args:
            tasks: All tasks, in order.
            name: Returns the name of a task, which decides its shard.
            record_id: Returns the id of the record that the task leads to.
        """
        if not self._share:
            yield from tasks
            return
        for task in tasks:
            made = record_id(task)
            if mark := self._share.mark(name(task), made.encode("utf-8", "backslashreplace")):
                self._check_digest(mark, name(task))
                self._marks.setdefault(made, deque()).append(mark)
                yield task
        self._share.is_complete = True

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, record: dict, lineage: bool = True) -> None:
        """Write one record, with this stage added to its lineage."""
        self._check_beginning()
        mark = mark_of(record)
        if self._share and not mark:
            mark = self._mark_of_task(record)
            if mark is None:
                raise EexpError(f"{record.get('id')}: written for a task that was not in the list of tasks")
            record = marked(record, mark)
        try:
            line = dumps(records.with_lineage(record, self._entry_for(record)) if lineage else record)
        except InputError as e:  # a text of an environment or a server that JSON cannot hold
            self.fail(record, e)
            return
        self._write(line)
        if mark:
            self._count_written(line, mark)
        self.counts["out"] += 1
        if self._meter:
            if not self._sizes:
                self._meter.note_first_record()
            self._sizes["bytes"] += len(line)
            self._sizes["alternatives"] += sum(
                len(step.get("alternatives") or ()) for step in record.get("steps") or ()
            )

    def write_text(self, text: str, records: int) -> None:
        """Write a text that is no record, and count what it holds as written."""
        self._write(text.encode())
        self.counts["out"] += records

    def _entry_for(self, record: dict) -> str:
        """Return the line of this stage for the lineage of a record.

        It names the package of the record's environment where the stage acts in one that does not come with eexp.
        """
        env = record.get("env") if self.acts else None
        if not isinstance(env, str):
            return self.entry
        if env not in self._entries:
            from eexp.envs.opening import without_wrappers
            from eexp.envs.registry import entry_of

            try:
                entry = entry_of(without_wrappers(env))
            except UsageError:  # of a record that is set aside
                entry = None
            made_with = f" plugin={entry.label}" if entry and entry.package else ""
            self._entries[env] = f"{self.entry}{made_with}"
        return self._entries[env]

    def _mark_of_task(self, record: dict) -> Mark | None:
        """Return the mark of the task that a record comes from, once; None where no task was shared out for it."""
        marks = self._marks.get(record.get("id", ""))
        mark = marks.popleft() if marks else None
        if mark and not marks:
            del self._marks[record["id"]]
        return mark

    def _end_shards(self) -> None:
        """Write the ends of the shards that were read to the end."""
        ends = self._ends
        if self._share:
            ends = [self._share.end()] if self._share.is_complete else []
            self.note(f"shard {self.shard}: {self._share.records:,} of {self._share.all_records:,} records")
        for end in ends:
            written = end.after(self.entry, self._written[end.id], str(self._digests[end.id]))
            self._write(written.line())
            if self._rejects_file:
                rejected, digest = self._rejected[end.id], str(self._reject_digests[end.id])
                self._write_to_rejects(written.of_rejects(rejected, digest).line())

    def _count_written(self, line: bytes, mark: Mark, record: dict | None = None) -> None:
        """Count a line of the output for the end of its shard.

        Args:
            line: The line.
            mark: The mark of its record.
            record: The record, where the line was read from a file.
        """
        shard = str(mark.shard)
        self._written[shard] += 1
        self._digests[shard].add(line, record)

    def _count_reject(self, line: bytes, mark: Mark | None) -> None:
        """Count a line of the rejects for the end of its shard, where it is of one."""
        if mark:
            shard = str(mark.shard)
            self._rejected[shard] += 1
            self._reject_digests[shard].add(line, _value_of(line))

    def _check_beginning(self) -> None:
        """Check, before a record is written, that the input is that of the earlier run.

        The output is in the order of the input, so records that an earlier run has written come first.
        """
        if self._appends and not self._has_met_earlier_id and self.on_error == "stop":
            self._check_input_is_the_same()

    def _write(self, line: bytes) -> None:
        """Write a line, or b"", and flush it and those before it."""
        assert self._output_file is not None
        try:
            with self._meter.waiting() if self._meter else nullcontext():
                self._output_file.write(line)
                self._output_file.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            raise self._write_error(e) from None

    def _write_error(self, error: OSError) -> EexpError:
        return EexpError(f"{self.output or '<stdout>'}: {error.strerror or error}")

    def _write_costs(self) -> None:
        """Add a line about what the run took to the file of --costs; many processes may add lines to it at once."""
        if self._costs_file is None or self._meter is None:
            return
        line = {
            "type": "cost",
            "stage": self.stage,
            "entry": self.entry,
            "reads": list(self.types),
            "server": self.uses_server,
            "in": self.counts["in"],
            "done_before": self.counts["done before"],
            "out": self.counts["out"],
            "bytes": self._sizes["bytes"],
            "alternatives": self._sizes["alternatives"],
            **self._meter.measured(),
        }
        try:
            os.write(self._costs_file, dumps(line))  # in one piece, so that lines of several processes do not mix
        except OSError as e:
            raise EexpError(f"{self.costs}: {e.strerror or e}") from None

    @staticmethod
    def _open_costs(name: str) -> int:
        """Open the file of --costs to add to it. It is open until this process ends."""
        try:
            return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise EexpError(f"{name}: {e.strerror or e}") from None

    # -- setting aside -------------------------------------------------------------------------------------------------

    def fail(self, record: dict, error: InputError) -> None:
        """Stop at a record that cannot be processed or, with --on-error skip, set it aside."""
        self.where = self._place(record)
        self._fail(record, error, hint=_SET_ASIDE_HINT)

    def _fail(self, record: dict, error: InputError, hint: str = "") -> None:
        place = ""
        if self.where:
            place = f"{self.where.file}:{self.where.line}: "
        elif "id" in record:  # a task, which comes from no file
            place = f"{record['id']}: "
        if self.on_error == "stop":
            located = type(error)(f"{place}{error}{hint}", evidence=error.evidence)
            located.where = error.where
            raise located from None
        if not self.reports_rejects:
            return
        self._show_rejected(f"set aside: {place}{error}")
        self.reject(record, error)

    def _show_rejected(self, text: str) -> None:
        """Show a record that is set aside: the first ones and, with -v, all; the others are counted until the end."""
        if self._shown < SHOWN_SET_ASIDE or terminal.verbose:
            self._shown += 1
            tell(f"{self.stage}: {text}")
            return
        if not self._not_shown:
            tell(f"{self.stage}: set aside: further records, which are counted and not shown (-v shows them)")
        self._not_shown += 1

    def _place(self, record: dict) -> Place | None:
        """Return the place of a record, or of the record that it was made from; the stage may have read on since."""
        recent = list(reversed(self._recent))
        own_id = record.get("id")
        for address, record_id, where in recent:  # both, because a new record may have the address of a deleted one
            if address == id(record) and record_id == own_id:
                return where
        return next((where for _, record_id, where in recent if "id" in record and record_id == own_id), self.where)

    def reject(self, record: dict | None, error: InputError, find: bool = False, note: str = "") -> None:
        """Count a record as set aside, and write it to the rejects file with the reason and the evidence.

        Args:
            record: What to write of it.
            error: The reason.
            find: Look for its place by its id, because the stage has read on since.
            note: What to show of it, unless the command is to be quiet.
        """
        if note and not self.quiet:
            self._show_rejected(note)
        if find and record:
            self.where = self._place(record)
        self.set_aside += 1
        self._write_reject(record, error)

    def keep(self, record: dict, error: InputError) -> None:
        """Write something that a stage left out to the rejects file, without counting it as set aside."""
        self.where = self._place(record)
        self._write_reject(record, error, {"set_aside": False})

    def _write_reject(self, record: dict | None, error: InputError, more: dict | None = None) -> None:
        if self._rejects_file is None:
            return
        place = self.where or Place(None, None, mark_of(record) or self._mark_of_task(record or {}), had_lineage=False)
        if record and place.mark:
            record = without_mark(record, keep_empty=place.had_lineage)
        reject = {
            "type": "reject",
            "stage": self.stage,
            "file": place.file,
            "line": place.line,
            "field": error.where or None,
            "error": str(error),
            "evidence": error.evidence,
            "record": record,
            **({"shard": str(place.mark)} if place.mark else {}),
            **(more or {}),
        }
        data = _dumps_reject(reject)
        if data not in self._earlier_rejects:  # a resumed run meets the same bad records again
            self._write_to_rejects(data)
            self._count_reject(data, place.mark)

    def _write_to_rejects(self, line: bytes) -> None:
        assert self._rejects_file is not None
        try:
            self._rejects_file.write(line)
            self._rejects_file.flush()
        except OSError as e:
            raise EexpError(f"{self.rejects}: {e.strerror or e}") from None

    # -- the summary ---------------------------------------------------------------------------------------------------

    def count(self, what: str, n: int = 1) -> None:
        """Add to a number of the summary.

        Args:
            what: What is counted, as `in_words` takes it.
            n: How many.
        """
        self.counts[what] += n

    def note(self, text: str) -> None:
        """Show a note on standard error, unless the command is to be quiet."""
        if not self.quiet:
            tell(f"{self.stage}: {text}")

    @property
    def exit_code(self) -> int:
        """The exit code of a run that has ended without an error."""
        any_before = any(not line.endswith(_NOT_SET_ASIDE) for line in self._earlier_rejects)
        return EXIT_SET_ASIDE if self.set_aside or any_before else EXIT_OK

    def summary(self) -> str:
        """Return one line with all numbers of the summary."""
        counted = sorted(self.counts, key=lambda what: what not in _SHOWN_FIRST)
        parts = [in_words(self.counts[what], what) for what in counted if self.counts[what] or what in _SHOWN_AT_0]
        if self.set_aside:
            parts.append(f"{self.set_aside} set aside" + (f" in {self.rejects}" if self.rejects else ""))
        return ", ".join(parts)


class WatchedPool:
    """A pool that does jobs in another one for `Stream.watch`; `where` of the stream is the place of each result."""

    def __init__(self, io: Stream, pool: Pool, unit: str):
        self._io, self._pool, self._unit = io, pool, unit

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """Do jobs as `Pool.run` does."""
        io = self._io
        placed = (((io.where, tag), job) for tag, job in jobs)
        for (place, tag), result in io.progress(self._pool.run(placed), self._unit):
            io.where = place
            yield tag, result
        io.counts.update(self._pool.counts)


def _object(value: Any) -> dict:
    """Return a value that is a JSON object; raise InputError for any other."""
    if not isinstance(value, dict):
        raise InputError("expected a JSON object", "$")
    return value


def _mark_of_reject(line: bytes) -> Mark | None:
    """Return the mark of a line of the rejects file; None for one without."""
    try:
        return parse_mark(loads(line).get("shard"))
    except (InputError, AttributeError):
        return None


def _value_of(line: bytes) -> Any:
    """Return what a line holds; None where it cannot be parsed."""
    try:
        return loads(line)
    except InputError:
        return None


def _dumps_reject(reject: dict) -> bytes:
    """Return one line for the rejects file, even for a record that was set aside because it cannot be written."""
    try:
        return dumps(reject)
    except InputError:
        pass
    try:  # json writes a lone surrogate as its escape, and larger integers
        return json.dumps(reject, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):  # values that an environment written in Python may put into a task
        return dumps({**reject, "evidence": {}, "record": {"text": reprlib.repr(reject["record"])}})
