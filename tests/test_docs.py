"""The documentation says what the commands do: every command and option is described, and nothing else is."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from running import EEXP, environment

from eexp import records
from eexp.cli import COMMANDS, CONTEXT, group

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
WRAPPERS = {"$", "time", "nohup", "env"}


def load_build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "man" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
ctx = click.Context(group, info_name="eexp", **CONTEXT)
commands = build.all_commands()
OPTIONS = [
    (name, p)
    for name, c in [*commands.items(), ("eexp", group)]
    for p in c.get_params(ctx)
    if isinstance(p, click.Option)
]
FLAGS = {flag for _, p in OPTIONS for flag in [*p.opts, *p.secondary_opts]}


def command_lines(text: str) -> list[list[str]]:
    """What stands after every `eexp` in shell text, as words, up to the next pipe or semicolon; no redirections."""
    found = []
    text = re.sub(r"\d?[<>]&\d|(?<=\s)\d(?=[<>])|(?:^|(?<=\s))#.*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    for line in (line for line in text.splitlines() if "eexp" in line):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split, lexer.commenters = True, ""
        part: list[str] = []
        words = iter([*lexer, ";"])
        for word in words:
            if word and set(word) <= set("<>"):
                next(words)
            elif not word or set(word) - set("|&;()"):
                part.append(word)
            else:
                while part and (part[0] in WRAPPERS or "=" in part[0]):
                    part.pop(0)
                if part[:1] == ["eexp"]:
                    found.append(part[1:])
                part = []
    return found


def parse(words: list[str]) -> None:
    """Raise AssertionError if eexp would refuse these words. What the shell fills in ($K) is not looked at."""
    said = "eexp " + " ".join(words)
    while words and words[0] in ("-v", "--verbose", "-h", "--help", "--version"):
        words = words[1:]
    if not words:
        return
    name, *rest = words
    if rest and f"{name} {rest[0]}" in commands:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name.isupper() or name == "...":  # `eexp STAGE --help`
        return
    assert name in commands, f"`{said}`: there is no command {name}"
    try:
        with commands[name].make_context(name, list(rest), parent=click.Context(group, info_name="eexp", **CONTEXT)):
            pass
    except click.exceptions.Exit:  # --help
        pass
    except click.MissingParameter as e:
        assert not rest, f"`{said}`: {e.format_message()}"  # `eexp expert` in a sentence is no command line
    except click.BadParameter as e:
        assert any("$" in word or word.isupper() for word in rest), f"`{said}`: {e.format_message()}"
    except click.UsageError as e:
        raise AssertionError(f"`{said}`: {e.format_message()}") from None


def split_markdown(text: str) -> tuple[list[str], list[str]]:
    """(shell in fenced blocks, inline code)."""
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = [body for language, body in fence.findall(text) if language in ("", "sh", "bash", "shell", "console")]
    return blocks, re.findall(r"`([^`\n]+)`", fence.sub("", text))


@pytest.mark.parametrize("name", commands)
def test_a_command_has_help_and_an_example_that_parses(name):
    text = inspect.cleandoc(commands[name].help or "")
    assert name not in COMMANDS or text.partition("\n")[0] == COMMANDS[name], "eexp/cli.py and the docstring differ"
    assert text.partition("\n")[0].endswith(".")
    _, mark, example = text.partition("\b\nExample:\n")
    assert mark, "no Example: block"
    lines = command_lines(example)
    assert any(words[: len(name.split())] == name.split() for words in lines), "the example does not use the command"
    for words in lines:
        parse(words)


@pytest.mark.slow
@pytest.mark.parametrize("name", commands)
def test_the_example_runs(name, tmp_path):
    _, _, example = inspect.cleandoc(commands[name].help).partition("\b\nExample:\n")
    example = re.sub(r"-n \d+", "-n 3", example)  # the same commands on fewer tasks
    eexp = f'eexp() {{ {shlex.join(EEXP)} "$@"; }}; set -eo pipefail\n'
    done = subprocess.run(
        ["bash", "-c", eexp + example], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or any(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{n} {p.opts[-1]}" for n, p in OPTIONS])
def test_an_option_has_help_that_shows_its_default(name, option):
    assert option.help, "no help"
    assert option.help.rstrip()[-1] in ".]", "help is a sentence"
    if not option.is_flag:
        shown = option.show_default or "[default: " in option.help
        assert shown or option.default is None or not isinstance(option.default, (str, int, float)), "hidden default"
        assert option.metavar or isinstance(option.type, click.Choice), (
            "no metavar: INTEGER RANGE tells nobody anything"
        )
    for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", option.help):
        assert flag in FLAGS, f"speaks of {flag}"


@pytest.mark.parametrize("name", commands)
def test_a_docstring_speaks_of_options_that_exist(name):
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", commands[name].help):
        assert flag in FLAGS


def test_the_manual_pages_are_up_to_date():
    made = build.pages()
    named = {f"eexp-{name.replace(' ', '-')}.1" for name in commands}
    assert set(made) == {"eexp.1", "eexp-records.5", "eexp-env.7"} | named
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "man").glob("*.[0-9]")}
    assert set(there) == set(made), "run `make man`"
    for name, text in made.items():
        assert there[name] == text, f"man/{name} is not what the commands say now; run `make man`"


def test_the_manual_says_every_option_and_variable():
    for name, command in commands.items():
        page = build.command_page(name).replace("\\-", "-")
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(f"\\fB{flag}\\fP" in page for flag in [*param.opts, *param.secondary_opts])
    assert "Environment: EEXP_BRANCH_K\n" in build.command_page("branch")
    assert re.search(r"^Environment: .*\bEEXP_MODEL\b", build.command_page("eval"), flags=re.MULTILINE)


@pytest.mark.parametrize("variable", ["EEXP_BRANCH_K", "EEXP_SEED"])
def test_a_variable_that_the_manual_names_is_read(variable, monkeypatch):
    monkeypatch.setenv(variable, "7")
    made = commands["branch"].make_context("branch", [], parent=click.Context(group, info_name="eexp", **CONTEXT))
    assert made.params[variable.rpartition("_")[2].lower()] == 7


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_the_manual_pages_render_without_a_warning():
    for path in sorted((ROOT / "man").glob("*.[0-9]")):
        done = subprocess.run(["groff", "-man", "-ww", "-T", "utf8", str(path)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path.name


def test_roff_is_escaped():
    assert build.escape(".hidden\n'quoted' a\\b -c ~/x `y`") == (
        r"\&.hidden" "\n" r"\(aqquoted\(aq a\(rsb \-c \(ti/x \(gay\(ga"
    )
    assert build.prose("Give -o FILE, or `eexp mix`: re-read it.") == (
        r"Give \fB\-o\fP \fIFILE\fP, or \fBeexp mix\fP: re\-read it."
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documentation_speaks_of_what_exists(path):
    blocks, inline = split_markdown(path.read_text(encoding="utf-8"))
    for text in blocks:
        for words in command_lines(text):
            parse(words)
    for code in inline:
        if code.startswith("eexp "):
            for words in command_lines(code):
                parse(words)
        elif match := re.match(r"(--[a-z][\w-]*)", code):
            assert match[1] in FLAGS, f"{path.name} speaks of {code}"


def test_links_between_the_pages_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_what_the_documentation_is_checked_with_finds_mistakes():
    lines = command_lines(
        "FOO=1 eexp expert house -n 2 > a | eexp branch < b 2>&1 | jq .x && eexp show \\\n  -n 1 a # x"
    )
    assert lines[0] == ["expert", "house", "-n", "2"]
    assert [words[0] for words in lines] == ["expert", "branch", "show"]
    assert lines[-1] == ["show", "-n", "1", "a"]
    assert command_lines("eexp reflect -m http://host/v1#name '' 2> log") == [
        ["reflect", "-m", "http://host/v1#name", ""]
    ]
    for wrong in (["brnch"], ["branch", "--kk", "3"], ["branch", "-k", "0"], ["schema", "episodes"]):
        with pytest.raises(AssertionError):
            parse(wrong)
    parse(["branch", "-k", "$K"])
    parse(["--version"])


def test_help_names_the_models_there_are():
    from eexp import models

    for spec in (".gguf", "hf:", "http://", "tiny", "random", "expert"):
        assert spec in models.__doc__ and spec in group.help


def shown_records() -> list[dict]:
    """Return the whole records that docs/records.md shows."""
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def comparable(value, key=""):
    """Return a record with log-probabilities rounded as in the documentation, and lineage without versions."""
    if isinstance(value, dict):
        return {k: comparable(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [comparable(v, key) for v in value]
    if key == "lineage":
        return re.sub(r"^(\S+) \S+", r"\1", value)
    return round(value, 2) if key == "logprob" else value


@pytest.mark.slow
def test_the_page_on_records_shows_what_its_commands_write(tmp_path):
    blocks, _ = split_markdown((ROOT / "docs" / "records.md").read_text(encoding="utf-8"))
    eexp = f'eexp() {{ {shlex.join(EEXP)} "$@"; }}; set -eo pipefail\n'
    subprocess.run(["bash", "-c", eexp + blocks[0]], cwd=tmp_path, check=True, env=environment())
    files = sorted(tmp_path.glob("*.jsonl"))
    written = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    by_id = {record["id"]: comparable(record) for record in written}
    shown = shown_records()
    assert {record["type"] for record in shown} == set(records.TYPES)
    for record in shown:
        records.check(record, "all")
        if "id" in record:
            assert comparable(record) == by_id[record["id"]]
