"""Output to a terminal: no command passes on text of its input that a terminal would obey."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from running import BARE_PYTHON, ROOT, read, run, write
from test_bad_input import PROGRAM

from eexp.cli import COMMANDS
from eexp.system import terminal

#: Sets the clipboard, hides what follows, turns it around, begins a control sequence in one character, overwrites.
EVIL = "a\x1b]52;c;aGk=\x07\x1b[8mb\u202ec\u2066d\x9b31me\x7f\rf\U000e0041"
_KEPT = {"type", "role", "name", "span", "source"}  # what the checks of a record or a choice by its value depend on


def hostile(value, key: str = ""):
    """Return a record with EVIL in every string that may hold any text."""
    if isinstance(value, dict):
        return {name: hostile(part, name) for name, part in value.items()} | ({} if key else {EVIL: EVIL})
    if isinstance(value, list):
        return [hostile(part, key) for part in value]
    return value + EVIL if isinstance(value, str) and key not in _KEPT else value


@pytest.fixture(scope="module")
def files(data, tmp_path_factory) -> dict[str, Path]:
    """Write hostile records of every type, to files with hostile names, and an environment that answers with EVIL."""
    here = tmp_path_factory.mktemp("hostile")
    records = {name: read(data[name])[:2] for name in ("rollout", "world", "reflected", "imitation", "episodes")}
    records["rollout"][0]["steps"][0]["alternatives"][0]["refused"] = "differs"
    records["rollout"][0]["steps"][0]["thought"] = "hm"
    records["world"][0]["scores"] = [{"span": "observation", "logprob": -1.0, "tokens": 2}]
    records["episodes"][0]["transcript"][0]["text"] = "Action: look"
    files = {name: write(here / f"{name}{EVIL}", map(hostile, some)) for name, some in records.items()}
    files["bad"] = write(here / f"bad{EVIL}", [{**hostile(records["rollout"][0]), "type": EVIL}])
    files["messages"] = write(here / "messages", [hostile({"id": "1", "messages": [{"role": EVIL, "content": ""}]})])
    tasks = [hostile({"type": "task", "env": "house", "task": {"id": str(i)}}) for i in range(2)]
    files["panel"] = write(here / f"panel{EVIL}", [*tasks, *tasks])
    files["style"] = here / f"style{EVIL}.toml"
    system = terminal.HIDDEN.sub(_toml_escape, EVIL)
    files["style"].write_text(f'extends = "react"\n[acting]\nsystem = "{system}"\n')
    program = PROGRAM.replace("BAD", "pass").replace('{"protocol": 1,', '{"protocol": 1, "name": EVIL,')
    for word in ('"start"', '"do it"', '"bad"', '"no"', '"observation": "done"'):
        program = program.replace(word, f"{word} + EVIL")
    files["program"] = here / "world.py"
    files["program"].write_text(f"EVIL = {EVIL!r}\n{program}")
    return files


def _toml_escape(match: re.Match) -> str:
    return f"\\U{ord(match[0]):08x}"


def exec_(files: dict[str, Path]) -> str:
    return f"exec:{BARE_PYTHON} {shlex.quote(str(files['program']))}"


#: Calls of every command in which it quotes its input to a person. Words that are names in `files` stand for those.
CALLS: dict[str, list[list[str]]] = {
    "expert": [["expert", "PROGRAM", "-n", "1"], ["expert", EVIL], ["expert", "house", "--split", EVIL]],
    "import": [["import", "messages", "messages"], ["import", "messages", "bad"], ["import", "episodes", "episodes"]],
    "branch": [["branch", "--from", "admissible", "rollout"], ["branch", "-m", EVIL, "rollout"]],
    "rollout": [["rollout", "rollout"], ["rollout", "--on-error", "skip", "rollout"]],
    "follow": [["follow", "-m", "expert", "rollout"], ["follow", "-m", EVIL, "rollout"]],
    "relabel": [["relabel", "rollout"], ["relabel", "--apart-from", "panel", "rollout"]],
    "correct": [["correct", "episodes"], ["correct", "--env", EVIL, "episodes"]],
    "reward": [["reward", "episodes"], ["reward", "--env", EVIL, "episodes"]],
    "summarise": [["summarise", "-m", EVIL, "rollout"]],
    "select": [["select", "rollout"], ["select", "--by", "length", "bad"]],
    "policy-data": [["policy-data", "episodes"], ["policy-data", "--on-error", "skip", "episodes"]],
    "recover": [["recover", "rollout"], ["recover", "bad"]],
    "preference-data": [["preference-data", "rollout"], ["preference-data", "bad"]],
    "world-model-data": [["world-model-data", "rollout"], ["world-model-data", "bad"]],
    "reflect": [["reflect", "--rationale", "outcome", "rollout"], ["reflect", "-m", EVIL, "rollout"]],
    "imitation-data": [
        ["imitation-data", "rollout"],
        ["imitation-data", "--on-error", "skip", "bad"],
        ["-v", "imitation-data", "bad"],
    ],
    "split": [["split", "--part", "1", "imitation"], ["split", "--part", "1", "bad"]],
    "merge": [["merge", "rollout"], ["merge", EVIL]],
    "mix": [["mix", "imitation", "world"], ["mix", "--dry-run", "imitation"], ["mix", "bad"]],
    "score": [["score", "-m", EVIL, "imitation"], ["score", "-m", "tiny", "--threads", "1", "imitation"]],
    "finetune": [["finetune", "--epochs", EVIL, "imitation"]],  # --dry-run: tests/training/test_finetune.py
    "export": [["export", EVIL, "-o", "/nothing/x.gguf"]],
    "export-log": [["export-log", "--format", "atif", "episodes"], ["export-log", "--format", "inspect", "bad"]],
    "card": [["card", EVIL], ["card", "rollout", "--title", EVIL], ["card", "bad"]],
    "panel": [["panel", "--check", "panel", "--apart-from", "panel"], ["panel", EVIL, "-n", "1"]],
    "eval": [
        ["eval", EVIL],
        ["eval", "--panel", "panel", "-m", "random"],
        ["eval", "house", "-m", "random", "--split", EVIL],
    ],
    "compare": [["compare", "episodes"], ["compare", f"{EVIL}=episodes", "--by-kind"], ["compare", "bad"]],
    "plan": [["plan", "--trajectories", "9", "bad"], ["plan", "--trajectories", "9", EVIL]],
    "power": [["power", f"{EVIL}=episodes"], ["power", "bad"]],
    "report": [["report", EVIL, "-o", "-"]],
    "view": [["view", EVIL, "-o", "-"], ["view", "--diff", EVIL, "-o", "-"]],
    "stats": [
        ["stats", "rollout", "world", "episodes"],
        ["stats", "--apart-from", "panel", "imitation"],
        ["stats", "bad"],
    ],
    "show": [
        ["show", "-n", "9", "rollout", "world", "reflected", "episodes"],
        ["show", "--row", "tiny", "imitation"],
        ["show", "--summary", "rollout", "world"],
        ["show", "--id", EVIL, "rollout"],
        ["show", "bad"],
    ],
    "prompts": [
        ["prompts", "show", "react", "--record", "rollout"],
        ["prompts", "show", "style"],
        ["prompts", "check", "style"],
        ["prompts", "show", EVIL],
    ],
    "env": [
        ["env", "show", "PROGRAM"],
        ["env", "play", "PROGRAM"],
        ["env", "check", "-n", "1", "PROGRAM"],
        ["env", "show", EVIL],
    ],
    "models": [["models", EVIL]],
    "plugins": [["plugins", EVIL], ["plugins"]],
    "schema": [["schema", EVIL], ["schema", "episode"]],
}
#: Commands whose standard output is for a person, too; that of the others is for records, as they are.
SHOWS = {"compare", "plan", "power", "stats", "show", "prompts", "env", "models", "plugins", "schema"}


def test_every_command_is_called():
    assert CALLS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_that_a_terminal_obeys_is_shown(name, files):
    n_escaped = 0
    for call in CALLS[name]:
        args = []
        for word in call:
            label, mark, file = word.rpartition("=")
            args.append(
                exec_(files) if word == "PROGRAM" else label + mark + str(files[file]) if file in files else word
            )
        result = run(*args, stdin=b"?\ngood\n")
        text = result.err + (result.out.decode() if name in SHOWS else "")
        match = terminal.HIDDEN.search(text)
        assert not match, f"{call}: {text[max(0, match.start() - 60) : match.end() + 20]!r}"
        n_escaped += "\\x1b" in text
    assert n_escaped, "nothing hostile was quoted: the calls above show nothing"


def test_what_is_visible_stays_as_it_is():
    text = "a\tb\nc é 日本 🙂 👩\u200d👩 עברית \u00a0"
    assert terminal.visible(text) == text
    assert terminal.visible("\x1b[1m\x9b\u202e\ud800\U000e0041\r\n") == "\\x1b[1m\\x9b\\u202e\\ud800\\U000e0041\\x0d\n"


def test_colours_are_those_of_eexp_alone():
    styled = "x\x1b[31m" + terminal.style("a\x1b[8mb", fg="green")
    assert terminal._escaped(styled) == "x\\x1b[31m\x1b[32ma\\x1b[8mb\x1b[0m"


def test_a_command_without_a_terminal_says_in_lines_how_far_it_has_come(monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    err = run("expert", "house", "-n", 3).ok().err
    assert re.findall(r"expert: (\d) of 3 tasks, about 0 s left\n", err) == ["1", "2", "3"]
    assert run("expert", "house", "-n", 3, "-q").ok().err == ""
    progress = terminal.Progress("finetune", "update", total=9, initial=4)
    progress._began -= 60
    progress.advance("loss 1.000")
    assert progress._count_text() == "5 of 9 updates, about 4 min left"
    assert terminal.format_seconds(89) == "89 s" and terminal.format_seconds(6000) == "1.7 h"


def test_messages_of_any_length_are_cut(capsys):
    terminal.tell("short", "x" * 5_000_000)
    message = capsys.readouterr().err
    assert message.startswith("short\nxxx") and message.endswith("... (4,996,000 more characters)\n")
    assert len(message) < 4100


def test_one_module_writes_for_people():
    """A `print` or `click.echo` elsewhere would show whatever text it is given."""
    writes = re.compile(r"\bprint\(|click\.(echo|secho|style)\(|sys\.(stderr|stdout)\.write\(")
    elsewhere = {"terminal.py", "appworld.py", "appworld_process.py"}  # the last two hold code that AppWorld executes
    calls = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted((ROOT / "eexp").rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if writes.search(line) and file.name not in elsewhere
    ]
    assert [line for line in calls if "e.format_message()" not in line] == []  # the help of a group without a command
