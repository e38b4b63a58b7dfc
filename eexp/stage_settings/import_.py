"""Settings of `eexp import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.errors import InputError, UsageError
from eexp.formats.names import ARGUMENT, EPISODES, MARKED, ROWS, WHOLE, WITH_TOOLS
from eexp.settings import option, recorded

if TYPE_CHECKING:
    from eexp.formats.episodes import Selection


@dataclass(frozen=True)
class ImportSettings:
    """Settings of `import_` and `import_episodes`.

    Attributes:
        action: How the agent's turns are read (formats.names.MARKED, WHOLE or ARGUMENT); None as usual in the format.
        task_key: The key that names the task.
        mapping: A JSON file: what a record calls its task, and what the environment does.
    """

    no_replay: bool = option(
        False, help="Take the contents of the records as they are: nothing is checked, nothing filled in."
    )
    success: bool = option(False, help="Leave out records that did not succeed.")
    min_score: float | None = option(
        None,
        type=options.Finite(min=0, max=1),
        metavar="SCORE",
        help="Leave out records that ended with a lower score, or with none.",
    )
    drop_invalid: bool = option(
        False,
        help="Leave out actions that the environment refused, where a second replay without them shows that they "
        "changed nothing.",
    )
    distinct: bool = option(False, help="Of trajectories of one task with the same actions, keep the first.")
    action: str | None = option(
        None,
        type=click.Choice([MARKED, WHOLE, ARGUMENT]),
        help='Where the action is: after "Action:", with a thought before it; the whole text of the agent, or the '
        "call of a tool in Python's notation; or the only argument of that call.  "
        "[default: whole for messages, else marked]",
    )
    task_key: str | None = option(
        None,
        metavar="KEY",
        help="The key of a record that names its task.  [default: item_id, or game_file, or id]",
    )
    name: str | None = option(
        None,
        metavar="NAME",
        help="The environment's name in records that are not replayed.  "
        "[default: the format's; for episodes, the one they name]",
    )
    split: str | None = option(None, metavar="NAME", help="Look for the task in this split.  [default: in all of them]")
    match: str | None = option(
        None,
        metavar="TEMPLATE",
        help="How the records name the environment's tasks, written with the keys of a task, such as "
        "{level}/{seed}.  [default: {id}; for a server of AgentGym, the number at the end]",
    )
    mapping: str | None = option(
        None,
        "--map",
        type=options.PATH,
        metavar="FILE",
        help="A JSON object from the names of tasks in the records to those of the environment.",
    )
    trust: str = option(
        "record",
        type=click.Choice(["record", "environment"]),
        help="Where they differ, refuse the record, or count it and go by the environment.",
    )
    admissible: int | None = options.admissible.field()
    seed: int = options.seed.field()

    @property
    def selection(self) -> Selection:
        """Which trajectories are kept."""
        from eexp.formats.episodes import Selection

        return Selection(self.success, self.min_score, self.distinct)

    def check(self, format: str, replayed: bool) -> None:
        """Raise UsageError for an option that would change nothing."""
        about_tasks = {"--split": self.split, "--match": self.match, "--map": self.mapping}
        about_records = {"--action": self.action, "--task-key": self.task_key}
        if format in ROWS:
            about_trajectories = {
                **about_tasks,
                "--action": self.action,
                "--success": self.success,
                "--min-score": self.min_score is not None,
                "--drop-invalid": self.drop_invalid,
                "--distinct": self.distinct,
            }
            for name, value in about_trajectories.items():
                if value:
                    raise UsageError(f"{name} is for trajectories; rows of {format} become examples")
        elif format == EPISODES:
            for name, value in {**about_records, **about_tasks}.items():
                if value:
                    raise UsageError(f"{name} is for records of other projects; an episode holds the same itself")
        elif self.action == ARGUMENT and format not in WITH_TOOLS:
            raise UsageError("--action argument is for calls of tools, which only messages have")
        elif not replayed:
            for name, value in about_tasks.items():
                if value:
                    raise UsageError(f"{name} is about the environment's tasks; it needs --env")
            if self.success or self.min_score is not None:
                raise UsageError(f"records of {format} say nothing of success; --success and --min-score need --env")
        if self.drop_invalid and not replayed:
            raise UsageError("only a replay can tell that a refused action changed nothing; --drop-invalid needs one")
        if replayed and self.name:
            raise UsageError("--name is for records that are not replayed; with --env it is the environment's")

    def lineage(self, replayed: bool) -> dict[str, Any]:
        """Return the settings that decide the output, by the names of their options."""
        entries = recorded(self, "action", "task_key")
        if replayed:
            entries |= recorded(self, "split", "match", "mapping", "trust")
            entries |= {"admissible": "all" if self.admissible is None else self.admissible, "seed": self.seed}
        else:
            entries |= {"replay": "no" if self.no_replay else None, "name": self.name}
        return {
            **entries,
            "success": "yes" if self.success else None,
            "min_score": self.min_score,
            "drop_invalid": "yes" if self.drop_invalid else None,
            "distinct": "yes" if self.distinct else None,
        }

    def names(self) -> dict[str, str] | None:
        """Return the contents of the file `mapping`; raise InputError if it holds no object of strings."""
        from eexp.jsonl import loads, refuse_other_files

        file = self.mapping
        if file is None:
            return None
        try:
            contents = Path(file).read_bytes()
        except OSError as e:
            raise InputError(f"{file}: {e.strerror or e}") from None
        refuse_other_files(contents, file)
        try:
            names = loads(contents)
        except InputError as e:
            raise InputError(f"{file}: {e}") from None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{file}: expected an object of strings")
        return names
