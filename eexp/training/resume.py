"""Resuming a training run: its checkpoints, and the check that a command continues the run it started.

While a run goes on, `checkpoints/run.json` holds what eexp.json will say, and `checkpoints/checkpoint-N` the state
after update N. Both are removed when the run has ended. The last file of a checkpoint is SHA256SUMS. It has the digests
of all files that a resumed run reads: those of the checkpoint, run.json, and the best weights so far (`best-N`). A run
is resumed only from files that are as they were written.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import orjson
from accelerate.utils import gather_object

from eexp.errors import EexpError, InputError, UsageError
from eexp.prompts import PromptStyle
from eexp.records.runs import parse_run, read_run
from eexp.training.example_log import ExampleLog
from eexp.training.files import SUMS_FILE, replace_file
from eexp.training.job import ExampleSource
from eexp.training.settings import Settings

_DESCRIPTION = "run.json"  # among the checkpoints: the contents of eexp.json so far, and how checkpoints are sealed
METRICS_FILE = "metrics.jsonl"  # in the directory of a run, and as it was then in each of its checkpoints
_KEPT = 2  # checkpoints: the last one, and the one to go back to where the last is damaged
_SUM = re.compile(r"([0-9a-f]{64})  ([\w./-]+)")  # a line of SHA256SUMS, as sha256sum writes it


def check_finished_run(
    directory: Path,
    settings: Settings,
    source: ExampleSource,
    validation: ExampleSource | None,
    style: PromptStyle | None = None,
) -> None:
    """Raise UsageError unless the finished run in `directory` has these settings and examples; all are read.

    Args:
        style: The prompt style that the examples were made with, for one that is not built in.
    """
    run: dict = {"settings": settings.as_dict(), "validation": None}
    log = ExampleLog(given_style=style)
    for name, examples in (("data", source), ("validation", validation)):
        if examples:
            for _ in log.read(examples):
                pass
            run[name] = {"sha256": log.sha256}
            log = log.for_validation()
    check_same_run(read_run(directory), run, directory)


def check_same_run(before: dict, now: dict, directory: Path) -> None:
    """Raise UsageError, which names the differences, unless two descriptions are of the same run.

    Args:
        before: The description in `directory`.
        now: That of this command; keys that it lacks are not compared, but for `settings`, `data` and `validation`.
        directory: For the message.
    """
    # A setting that is newer than the run in the directory had its default value.
    settings = Settings().as_dict() | before.get("settings", {})
    differences = [k for k in now["settings"] if settings.get(k) != now["settings"][k]]
    for name in ("data", "validation"):
        differences += [name] if (before.get(name) or {}).get("sha256") != (now[name] or {}).get("sha256") else []
    differences += [k for k in ("base_fingerprint", "init_fingerprint") if k in now and before.get(k) != now[k]]
    if not differences:  # the run that --budget-like names may have been trained anew
        differences = [k for k in ("updates", "total") if k in now and before.get(k) != now[k]]
    if differences:
        raise UsageError(
            f"{directory} holds a run with other settings ({', '.join(differences)}); give the same, or another -o"
        )


def check_same_examples(run: dict) -> None:
    """Raise InputError if the processes that train together have read different examples."""
    if len(set(gather_object([run["data"]["sha256"]]))) > 1:
        raise InputError("the processes read different examples; give files that all of them see")


def prepare_checkpoints(checkpoints: Path, run: dict, resume: bool, directory: Path) -> None:
    """Create the directory of checkpoints, or keep the one of the same run where `resume` is set.

    Raises UsageError if it holds the checkpoints of another run, or of any without `resume`; EexpError if it cannot be
    created, or if its run.json is damaged.
    """
    description, written = checkpoints / _DESCRIPTION, _numbered(checkpoints, "checkpoint")
    anew = f"remove {checkpoints} to begin anew"
    if resume and description.is_file():
        try:
            before = parse_run(description.read_bytes(), str(description))
        except EexpError as e:
            raise EexpError(f"{e}; {anew}") from None
        check_same_run(before, run, directory)
        if written:
            return
    elif written and resume:
        raise EexpError(f"{description}: is missing, so nothing says which run the checkpoints are of; {anew}")
    elif written:
        raise UsageError(
            f"{directory} holds a run that was interrupted, up to {written[0].name}; --resume continues it, "
            f"or remove the directory"
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    try:
        checkpoints.mkdir(parents=True)
    except OSError as e:
        raise EexpError(f"{checkpoints}: {e.strerror or e}") from None
    replace_file(description, orjson.dumps(run | {"checkpoints": SUMS_FILE}, option=orjson.OPT_INDENT_2))


def seal_checkpoint(checkpoint: Path, metrics: Path, best: Path | None) -> None:
    """Write the last files of a checkpoint: a copy of metrics.jsonl, and the digests of all that a resumed run reads.

    Args:
        checkpoint: The directory, with the files of all processes.
        metrics: The lines of the run so far.
        best: The directory of the best weights so far, if the run keeps them.
    """
    shutil.copyfile(metrics, checkpoint / METRICS_FILE)
    files = [*(_files_in(best) if best else []), *_files_in(checkpoint), checkpoint.parent / _DESCRIPTION]
    lines = [f"{_sha256(file)}  {file.relative_to(checkpoint.parent).as_posix()}\n" for file in files]
    replace_file(checkpoint / SUMS_FILE, "".join(lines).encode())


def remove_older(checkpoints: Path) -> None:
    """Remove all checkpoints but the last two, and all best weights but those that these two name."""
    written = _numbered(checkpoints, "checkpoint")
    for older in written[_KEPT:]:
        shutil.rmtree(older, ignore_errors=True)
    kept = {name.partition("/")[0] for checkpoint in written[:_KEPT] for name in _sums_of(checkpoint)}
    for best in _numbered(checkpoints, "best"):
        if best.name not in kept:
            shutil.rmtree(best, ignore_errors=True)


def choose_checkpoint(checkpoints: Path, note: Callable[[str], None]) -> str | None:
    """Return the last checkpoint that is whole, None where none has been written; later ones are removed.

    Args:
        checkpoints: The directory of the checkpoints, with run.json.
        note: Called with a message that names the checkpoint, and what was wrong with later ones.

    Raises:
        EexpError: Checkpoints were written, and none of them is as it was.
    """
    damages: dict[Path, str] = {}
    chosen = None
    for checkpoint in _numbered(checkpoints, "checkpoint"):
        damage = _damage(checkpoint)
        if damage is None:
            chosen = checkpoint
            break
        damages[checkpoint] = damage
    if damages and not chosen:
        _refuse_damaged(checkpoints, damages)
    for checkpoint in damages:
        shutil.rmtree(checkpoint)
    causes = "".join(f"; {path.name} was removed, since {damage}" for path, damage in damages.items())
    if chosen:
        note(f"going on from {chosen}{causes}")
    elif causes:
        note(f"beginning anew{causes}")
    return str(chosen) if chosen else None


@contextmanager
def loading_errors(checkpoint: str) -> Iterator[None]:
    """Raise EexpError, with one line, for any error within the block from loading a checkpoint.

    Its files are as they were written; another version of a library may still be unable to read them.
    """
    try:
        yield
    except (EexpError, MemoryError):
        raise
    except Exception as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise EexpError(f"{checkpoint}: cannot be loaded: {reason}") from e


def _refuse_damaged(checkpoints: Path, damages: dict[Path, str]) -> None:
    """Raise EexpError unless all of these checkpoints were cut off while they were written."""
    anew = f"remove {checkpoints} to begin anew"
    has_sums = "checkpoints" in orjson.loads((checkpoints / _DESCRIPTION).read_bytes())
    for checkpoint, damage in damages.items():
        if (checkpoint / SUMS_FILE).exists():
            others = ", and no other checkpoint is whole" if len(damages) > 1 else ""
            raise EexpError(f"{checkpoint}: {damage}{others}; {anew}")
        if not has_sums:
            raise EexpError(
                f"{checkpoint}: is of an earlier version, which wrote no {SUMS_FILE}, so its files cannot be checked; "
                f"finish the run with that version, or {anew}"
            )


def _numbered(checkpoints: Path, kind: str) -> list[Path]:
    """Return the directories `KIND-N` among checkpoints, the highest N first."""
    paths = [p for p in checkpoints.glob(f"{kind}-*") if re.fullmatch(r"[a-z]+-[0-9]+", p.name) and p.is_dir()]
    return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _files_in(directory: Path) -> list[Path]:
    """Return the files in a directory and in those within it, without SHA256SUMS."""
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in (SUMS_FILE, f"{SUMS_FILE}.part"))


def _sha256(file: Path) -> str:
    """Return the digest of a file. Raises EexpError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as f:
            while chunk := f.read(1 << 20):
                digest.update(chunk)
    except OSError as e:
        raise EexpError(f"{file}: cannot be read: {e.strerror or e}") from None
    return digest.hexdigest()


def _sums_of(checkpoint: Path) -> dict[str, str]:
    """Return the digests in the SHA256SUMS of a checkpoint, by the file's path from `checkpoints`; empty if damaged.

    The last line is that of run.json, so a SHA256SUMS that was cut off is known.
    """
    try:
        lines = (checkpoint / SUMS_FILE).read_bytes().decode("ascii").split("\n")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return {}
    sums = {match[2]: match[1] for match in map(_SUM.fullmatch, lines) if match}
    return sums if len(sums) == len(lines) - 1 and list(sums)[-1:] == [_DESCRIPTION] and not lines[-1] else {}


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with the files that a run is resumed from, as a sentence; None if they are whole."""
    if not (checkpoint / SUMS_FILE).is_file():
        return f"its {SUMS_FILE} is missing"
    checkpoints, sums = checkpoint.parent, _sums_of(checkpoint)
    if not sums:
        return f"its {SUMS_FILE} is damaged"
    for name, digest in sums.items():
        if not (checkpoints / name).is_file():
            return f"{name} is missing"
        if _sha256(checkpoints / name) != digest:
            return f"{name} is not as it was written"
    directories = {checkpoint.name, *(name.partition("/")[0] for name in sums if "/" in name)}
    for file in chain.from_iterable(_files_in(checkpoints / name) for name in sorted(directories)):
        # Hidden files are those of file systems and file managers; a hidden file of a checkpoint is listed.
        name = file.relative_to(checkpoints).as_posix()
        if name not in sums and not file.name.startswith("."):
            return f"{name} is not in its {SUMS_FILE}"
    return None
