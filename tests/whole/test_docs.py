"""The documentation says what the commands do: every command and option is described, and nothing else is."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from running import EEXP, environment, run, run_script

from eexp.cli import COMMANDS, CONTEXT, group
from eexp.records import types as record_types

ROOT = Path(__file__).parents[2]
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
    """Return the words after every `eexp` in shell text, up to the next pipe or semicolon, without redirections."""
    commands = []
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
                    commands.append(part[1:])
                part = []
    return commands


def parse(words: list[str]) -> None:
    """Raise AssertionError if eexp would refuse these words. What the shell fills in ($K) is not looked at."""
    line = "eexp " + " ".join(words)
    while words and words[0] in ("-v", "--verbose", "-h", "--help", "--version"):
        words = words[1:]
    if not words:
        return
    name, *rest = words
    if rest and f"{name} {rest[0]}" in commands:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name.isupper() or name == "...":  # `eexp STAGE --help`
        return
    assert name in commands, f"`{line}`: there is no command {name}"
    try:
        with commands[name].make_context(name, list(rest), parent=click.Context(group, info_name="eexp", **CONTEXT)):
            pass
    except click.exceptions.Exit:  # --help
        pass
    except click.MissingParameter as e:
        assert not rest, f"`{line}`: {e.format_message()}"  # `eexp expert` in a sentence is no command line
    except click.BadParameter as e:
        assert any("$" in word or word.isupper() for word in rest), f"`{line}`: {e.format_message()}"
    except click.UsageError as e:
        raise AssertionError(f"`{line}`: {e.format_message()}") from None


def split_markdown(text: str) -> tuple[list[str], list[str]]:
    """Return the shell code in fenced blocks, and the inline code."""
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


NEEDS_A_PERSON = {"env record"}


@pytest.mark.parametrize("name", [name for name in commands if " " in name and name not in NEEDS_A_PERSON])
def test_the_example_of_a_subcommand_runs(name, tmp_path):
    """Run the example as it stands; tests/commands/test_cli.py does the same for the other commands."""
    _, _, example = inspect.cleandoc(commands[name].help).partition("\b\nExample:\n")
    result = run_script(example, tmp_path).ok()
    assert result.out or any(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{n} {p.opts[-1]}" for n, p in OPTIONS])
def test_an_option_has_help_that_shows_its_default(name, option):
    assert option.help, "no help"
    assert option.help.rstrip()[-1] in ".]", "help is a sentence"
    if not option.is_flag:
        explained = option.show_default or "[default: " in option.help
        assert explained or option.default is None or not isinstance(option.default, (str, int, float)), (
            "hidden default"
        )
        assert option.metavar or isinstance(option.type, click.Choice), (
            "no metavar: INTEGER RANGE says nothing about the option"
        )
    for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", option.help):
        assert flag in FLAGS, f"speaks of {flag}"


@pytest.mark.parametrize("name", commands)
def test_a_docstring_speaks_of_options_that_exist(name):
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", commands[name].help):
        assert flag in FLAGS


def test_every_command_has_a_manual_page():
    pages = build.pages()
    named = {f"eexp-{name.replace(' ', '-')}.1" for name in commands}
    assert set(pages) == {"eexp.1", "eexp-records.5", "eexp-env.7"} | named


def test_the_manual_says_every_option_and_variable():
    for name, command in commands.items():
        page = build.command_page(name).replace("\\-", "-")
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(f"\\fB{flag}\\fP" in page for flag in [*param.opts, *param.secondary_opts])
        variables = {param.envvar for param in command.params if param.envvar}
        assert all(f"\\fB{variable}\\fP\n" in page for variable in variables)


def test_the_main_page_and_help_name_every_variable_of_an_option():
    variables = {param.envvar for command in commands.values() for param in command.params if param.envvar}
    assert all(name in group.epilog and f"\\fB{name}\\fP\n" in build.command_page(None) for name in variables)


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_the_manual_pages_render_without_a_warning():
    for name, text in build.pages().items():
        process = subprocess.run(["groff", "-man", "-ww", "-T", "utf8"], input=text.encode(), capture_output=True)
        assert (process.returncode, process.stderr) == (0, b""), name


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


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings, as a code host numbers them."""
    tokens, counts = MarkdownIt().parse(text), Counter()
    anchors = set()
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            words = "".join(part.content for part in content.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
            counts[slug] += 1
    return anchors


def test_links_between_the_pages_lead_somewhere():
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?", path.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            page = path.parent / target if target else path
            assert page.exists(), f"{path.name} links to {target}"
            if anchor and page.suffix == ".md":
                assert anchor in anchors_of(page.read_text(encoding="utf-8")), f"{path.name} links to {target}#{anchor}"


def test_anchors_are_made_of_headings():
    text = "# A `code`, *loud*\n\n```sh\n# no heading\n```\n\n## One & two_three\n\n## One & two_three\n"
    assert anchors_of(text) == {"a-code-loud", "one--two_three", "one--two_three-1"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_on_the_pipe_lists_every_command(name):
    table = (ROOT / "docs" / "pipe.md").read_text(encoding="utf-8").partition("## Terms")[0]
    assert re.search(rf"^\|.*`eexp {name}[ `]", table, re.MULTILINE), "the table in docs/pipe.md has no row for it"


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


def test_the_list_of_models_names_those_there_are():
    from eexp.models.registry import KINDS

    lines = run("models").ok().out.decode().splitlines()
    assert [line.split()[0] for line in lines[::2]] == [kind.spec for kind in KINDS]
    assert lines[1::2] == [f"  -m {kind.example}" for kind in KINDS]
    for kind, line in zip(KINDS, lines[::2]):
        assert line.endswith(f"  {kind.line}") and kind.example.startswith(kind.beginning)


def test_the_page_on_models_and_the_readme_name_the_models_there_are():
    from eexp.models.registry import KINDS

    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (names,) = re.findall(r"## Names\n\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [line.removeprefix("-m ").split("  ")[0] for line in names.splitlines()] == [kind.spec for kind in KINDS]
    for kind in KINDS:
        if kind.spec.startswith(("hf:", "http:")):
            assert f"`{kind.spec.partition('[')[0]}`" in readme


def test_the_page_on_environments_lists_those_there_are():
    from eexp.envs.registry import KINDS

    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    table = page.partition("## Specs\n")[2].partition("A spec may carry options")[0]
    assert all(f"`{kind.spec}`" in table for kind in KINDS)


def test_the_page_on_python_classes_lists_every_method_and_attribute():
    from eexp.envs import Environment, Observation

    page = (ROOT / "docs" / "environments" / "python.md").read_text(encoding="utf-8")
    for_stages = {"has", "check_split", "list_tasks"}  # not for a class to define
    for name, member in vars(Environment).items():
        if inspect.isfunction(member) and not name.startswith("_") and name not in for_stages:
            parameters = ", ".join(list(inspect.signature(member).parameters)[1:])
            assert f"`{name}({parameters})`" in page
        elif not name.startswith("_") and not callable(member) and name != "spec":
            value = "frozenset()" if member == frozenset() else member
            assert f"| `{name}` | {value} |" in page.replace("`False`", "False").replace("`frozenset()`", "frozenset()")
    signature = inspect.signature(Observation)
    parameters = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in signature.parameters.values()]
    assert f"`Observation({', '.join(parameters)})`" in page


@pytest.mark.slow
def test_the_classes_of_the_page_on_python_classes_keep_the_contract(tmp_path):
    page = (ROOT / "docs" / "environments" / "python.md").read_text(encoding="utf-8")
    codes = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(codes) == 2
    for n, code in enumerate(codes):
        (tmp_path / f"world_{n}.py").write_text(code, encoding="utf-8")
        name = re.search(r"^class (\w+)\(Environment\)", code, re.MULTILINE)[1]
        command = [*EEXP, "env", "check", f"world_{n}:{name}", "--action", "1", "-n", "3"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
        assert process.returncode == 0, process.stdout + process.stderr


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
    run_script(blocks[0], tmp_path).ok()
    files = sorted(tmp_path.glob("*.jsonl"))
    outputs = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    by_id = {record["id"]: comparable(record) for record in outputs}
    examples = shown_records()
    assert {record["type"] for record in examples} == set(record_types.TYPES)
    for record in examples:
        record_types.check(record, *record_types.TYPES)
        if "id" in record:
            assert comparable(record) == by_id[record["id"]]


@pytest.mark.slow
def test_the_page_on_world_models_shows_what_its_commands_write(tmp_path):
    text = (ROOT / "docs" / "world-model.md").read_text(encoding="utf-8")
    blocks, _ = split_markdown(text)
    run_script(blocks[0], tmp_path).ok()
    outputs = [json.loads(line) for line in (tmp_path / "iwm.jsonl").read_text().splitlines()]
    (example,) = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    (record,) = (record for record in outputs if record["id"] == example["id"])
    assert example == {key: record[key] for key in example}


@pytest.mark.long
def test_the_page_on_training_shows_the_losses_of_its_commands(tmp_path):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("\n## Validation\n")[2]
    blocks, _ = split_markdown(text)
    run_script(blocks[0], tmp_path).ok()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["validation"]["loss"] for line in metrics if "validation" in line}
    shown = {int(step): float(loss) for step, loss in re.findall(r'^{"step": (\d+), .*?"loss": ([\d.]+)', text, re.M)}
    assert shown == pytest.approx(measured, abs=0.003)


@pytest.mark.slow
def test_the_page_on_imports_shows_what_becomes_of_its_chats(tmp_path):
    text = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    text = text.partition("### A chat with a system prompt\n")[2].partition("### What is lost\n")[0]
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    assert len(blocks) == 4
    for chat, example in zip(blocks[::2], blocks[1::2]):
        (tmp_path / "chat.jsonl").write_text(json.dumps(chat), encoding="utf-8")
        run_script("eexp import messages chat.jsonl | eexp imitation-data > il.jsonl", tmp_path).ok()
        record = json.loads((tmp_path / "il.jsonl").read_text().splitlines()[-1])
        assert example == {key: record[key] for key in example}
