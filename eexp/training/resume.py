"""Resuming a training run: its checkpoints, and the check that a command continues the run it started.

While a run goes on, `checkpoints/run.json` holds what eexp.json will say, and `checkpoints/checkpoint-N` the state
after update N. Both are removed when the run has ended.
"""

from __future__ import annotations

import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import orjson
from accelerate.utils import gather_object

from eexp.errors import EexpError, InputError, UsageError
from eexp.prompts import PromptStyle
from eexp.records.runs import read_run
from eexp.training.example_log import ExampleLog
from eexp.training.files import replace_file
from eexp.training.job import ExampleSource
from eexp.training.settings import Settings


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
    run: dict = {"settings": asdict(settings), "validation": None}
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
    defaults = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
    settings = defaults | before.get("settings", {})
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
    created.
    """
    description = checkpoints / "run.json"
    if not resume and (checkpoint := last_checkpoint(checkpoints)):
        raise UsageError(
            f"{directory} holds a run that was interrupted, up to {Path(checkpoint).name}; --resume continues it, "
            f"or remove the directory"
        )
    if resume and description.is_file():
        check_same_run(orjson.loads(description.read_bytes()), run, directory)
        return
    shutil.rmtree(checkpoints, ignore_errors=True)
    try:
        checkpoints.mkdir(parents=True)
    except OSError as e:
        raise EexpError(f"{checkpoints}: {e.strerror or e}") from None
    replace_file(description, orjson.dumps(run, option=orjson.OPT_INDENT_2))


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the last checkpoint that is whole, None where there is none; remove later ones, which are half-written.

    Trainer writes the state of a checkpoint last of all.
    """
    for path in sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        try:
            orjson.loads((path / "trainer_state.json").read_bytes())
            return str(path)
        except (OSError, orjson.JSONDecodeError):
            shutil.rmtree(path)
    return None
