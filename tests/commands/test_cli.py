"""The command line itself: help, what it costs to start, environment variables, and every example in it."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conversations import messages_of
from running import ROOT, environment, read, run, run_script, spawn, write

from eexp import __version__
from eexp.cli import COMMANDS, GROUPS, group

HEAVY = ("torch", "transformers", "llama_cpp", "numpy", "scipy", "peft", "httpx", "jinja2", "accelerate", "tqdm")
#: What help has no need of, as it takes milliseconds to import: records as classes, JSON, seeds, processes.
NOT_FOR_HELP = ("msgspec", "orjson", "hashlib", "json", "subprocess", "random", "tomllib", "importlib.metadata")
#: The smallest click program.
BARE = "import click\n@click.command()\ndef main(): 'Help.'\nmain(['--help'], standalone_mode=False)"


def _command(name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def _examples(command: click.Command) -> list[str]:
    """Return the indented scripts of a help text: what follows "Example:"."""
    scripts = []
    for paragraph in inspect.cleandoc(f"{command.help}\n{command.epilog or ''}").split("\b\n")[1:]:
        block = [line for line in paragraph.split("\n\n")[0].splitlines() if line.strip()]
        if any(line.startswith("  eexp ") for line in block):
            scripts.append("\n".join(line for line in block if line.startswith("  ")))
    return scripts


def test_the_table_of_commands_is_what_they_say_of_themselves():
    for name, summary in COMMANDS.items():
        command = _command(name)
        assert command.name == name
        assert inspect.cleandoc(command.help).splitlines()[0] == summary
        assert summary.endswith(".") and len(summary) <= 80


def test_a_command_is_in_one_group():
    assert len(GROUPS) == 5 and sum(map(len, GROUPS.values())) == len(COMMANDS)


def test_every_stage_is_in_the_table():
    modules = {p.stem.rstrip("_").replace("_", "-") for p in (ROOT / "eexp" / "commands").glob("[!_]*.py")}
    missing = modules - set(COMMANDS)
    assert not missing, f"add {sorted(missing)} to GROUPS in eexp/cli.py: the name, and the docstring's first line"
    gone = set(COMMANDS) - modules
    assert not gone, f"GROUPS in eexp/cli.py names {sorted(gone)}, which eexp/commands has no module for"


@pytest.mark.parametrize("name", [None, *COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(name, flag):
    result = run(*filter(None, [name]), flag).ok()
    text = result.out.decode()
    assert text.startswith("Usage: eexp") and result.err == ""
    assert max(map(len, text.splitlines())) <= 100
    if name is None:
        lines = text.splitlines()
        first_words = [line.split()[0] for line in lines if line.startswith("  ")]
        assert [word for word in first_words if word in COMMANDS] == [*COMMANDS]
        assert len(lines) <= 70, "it should fit on one screen"
        assert lines.index("Record:") < lines.index("Look:") < lines.index("Options:")
        assert "Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 done but some records were set aside." in text
    else:
        assert "Example:" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    for parameter in _command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help[0].isupper(), f"{name} {parameter.opts}"
            assert parameter.help.rstrip().endswith((".", "]", ")")), f"{name} {parameter.opts}: {parameter.help}"


def test_shared_options_are_spelled_and_explained_alike():
    spellings: dict[str, set] = {}
    for name in COMMANDS:
        for parameter in _command(name).params:
            if isinstance(parameter, click.Option):
                spellings.setdefault(parameter.opts[-1], set()).add((parameter.opts[0], str(parameter.type)))
    for option in ("--output", "--on-error", "--rejects", "--quiet", "--seed", "--env", "--temperature", "--resume"):
        assert len(spellings[option]) == 1, spellings[option]


def test_version_and_module():
    assert run("--version").ok().out.decode() == f"eexp {__version__}\n"
    assert spawn("--version").ok().out.decode() == f"eexp {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)


def test_without_arguments_it_shows_the_help():
    result = run()
    assert result.code == 2 and b"Record:" in result.out
    assert run("expert").code == 2


def _modules_after(script: str) -> set[str]:
    """Return the modules that a new process has imported after a script."""
    script = f"import sys\n{script}\nprint(*sys.modules, file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr
    return set(process.stderr.split())


def test_help_imports_little():
    """`eexp --help` imports what shows text and ends a command, and no package but click."""
    more = _modules_after("from eexp.cli import main\nmain(['--help'])") - _modules_after(BARE)
    assert {name for name in more if name.startswith("eexp.")} == {
        "eexp.cli",
        "eexp.errors",
        "eexp.system",
        "eexp.system.plugins",
        "eexp.system.signals",
        "eexp.system.terminal",
    }
    assert len(more) <= 10, sorted(more)


def test_help_of_every_stage_imports_little():
    """A stage's help imports its options, and neither what it works with nor what reads records."""
    script = (
        "import os, sys\n"
        "from eexp.cli import COMMANDS, main\n"
        "sys.stdout = open(os.devnull, 'w')\n"
        "for name in COMMANDS:\n"
        "    if not os.fork():\n"
        "        main([name, '--help'])\n"
        "        os.write(2, ' '.join([name, *sys.modules, '\\n']).encode())\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    bare = _modules_after(BARE)
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    more = {line.split()[0]: set(line.split()[1:]) - bare for line in process.stderr.splitlines()}
    assert more.keys() == COMMANDS.keys()
    for name, modules in more.items():
        assert not modules & {*NOT_FOR_HELP, *HEAVY}, name
        assert len(modules) <= 32, (name, sorted(modules))


def test_data_stages_load_nothing_heavy(data, tmp_path):
    """Stages without a model start fast enough to be called hundreds of times."""
    played = write(tmp_path / "played.jsonl", [messages_of(read(data["expert"])[0])])
    script = (
        "import sys\nfrom eexp.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'transformers', 'llama_cpp', 'scipy') if n in sys.modules], file=sys.stderr)"
    )
    for args in (
        ["imitation-data", "-q", data["expert"]],
        ["mix", "-q", data["imitation"]],
        ["rollout", "-q", data["branched"]],
        ["branch", "-q", "--from", "admissible", data["expert"]],
        ["expert", "-q", "house", "-n", "1"],
        ["import", "-q", "messages", "--env", "house", played],
        ["show", data["expert"]],
        ["schema", "example"],
    ):
        process = subprocess.run(
            [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, env=environment()
        )
        assert process.stderr.strip() == "[]" and process.stdout


def test_options_from_the_environment(monkeypatch, data):
    branch = "branch", "--from", "admissible", data["expert"]
    by_option = run(*branch, "--seed", 5).ok()
    monkeypatch.setenv("EEXP_SEED", "5")
    assert run(*branch).ok().out == by_option.out
    assert "seed=3" in run(*branch, "--seed", 3).ok().records[0]["lineage"][-1], "the command line wins"
    monkeypatch.setenv("EEXP_ENV", "house")
    assert len(run("expert", "-n", 2).ok().records) == 2
    monkeypatch.setenv("EEXP_PROMPT_STYLE", "react-list")
    assert run("imitation-data", data["expert"]).ok().records[0]["prompt_style"].startswith("react-list@")


def test_verbose_shows_the_traceback(tmp_path):
    missing = tmp_path / "nothing"
    assert "Traceback" not in spawn("imitation-data", missing).err
    result = spawn("-v", "imitation-data", missing)
    assert "Traceback" in result.err and "InputError" in result.err and result.code == 3


def test_exit_codes_are_documented():
    from eexp import errors

    assert (errors.EXIT_OK, errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_INPUT, errors.EXIT_SET_ASIDE) == (
        0,
        1,
        2,
        3,
        4,
    )


# -- examples --------------------------------------------------------------------------------------------------------

ALL_EXAMPLES = [
    pytest.param(
        name,
        script,
        id=f"{name or 'eexp'}-{n}",
        marks=[pytest.mark.slow] if "branch" in script or "finetune" in script else [],
    )
    for name in (None, *COMMANDS)
    for n, script in enumerate(_examples(_command(name) if name else group))
]


def test_every_command_has_an_example():
    assert {p.values[0] for p in ALL_EXAMPLES} >= set(COMMANDS)


@pytest.mark.parametrize(("name", "script"), ALL_EXAMPLES)
def test_examples_run(name, script, tmp_path):
    result = run_script(script, tmp_path).ok()
    outputs = list(tmp_path.iterdir())
    assert result.out or outputs
    assert all(p.is_dir() or p.stat().st_size for p in outputs), [p.name for p in outputs]


@pytest.mark.long
def test_startup_benchmark_runs(tmp_path):
    """Check that the script runs; the times that it measures depend on the machine."""
    script = Path(ROOT / "benchmarks" / "startup.py")
    process = subprocess.run(
        [sys.executable, script, "--runs", "1", "schema"], capture_output=True, text=True, env=environment()
    )
    assert process.returncode == 0, process.stderr
    assert re.search(r"^schema +\d+ more modules$", process.stdout, re.MULTILINE)
    assert re.search(r"^  schema +\d+\.\d ms$", process.stdout, re.MULTILINE)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_while_modules_are_imported_is_quiet(tmp_path):
    """Here it comes when click is imported."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = spawn("--help", env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"))
    assert (result.code, result.out, result.err) == (-signal.SIGINT, b"", "")
