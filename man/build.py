"""Write the manual pages, from the click commands that make --help and from the schemas of the records.

    python man/build.py [DIRECTORY]     eexp.1, eexp-STAGE.1, eexp-records.5 and eexp-env.7, by default here

A build of the package does so by itself (setup.py), and git ignores the pages.

Packages were tried in its place. click-man 0.6 writes no page for commands that are loaded when they are called, cuts
the one-line descriptions short, dates each page, and knows neither examples nor variables nor exit codes. That of
docutils 0.23 needs the same text as reStructuredText with its own escapes, and turns ~ and ^ into accents, which no
shell takes. pandoc is a binary of 34 MB.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from eexp import __version__, errors
from eexp.cli import COMMANDS, CONTEXT, GROUPS, group
from eexp.envs.registry import KINDS
from eexp.models.registry import KINDS as MODEL_KINDS
from eexp.records import types as record_types

HERE = Path(__file__).parent

EXIT_STATUS: dict[object, str] = {
    errors.EXIT_OK: "Done.",
    errors.EXIT_FAILED: "Failed: a model, an environment or a file could not be used.",
    errors.EXIT_USAGE: "Usage: the command line asks for something that does not exist or does not fit together.",
    errors.EXIT_INPUT: "Bad input: a record is not what the command reads. The message says where.",
    errors.EXIT_SET_ASIDE: "Done, but some records were set aside.",
    "130, 143": "Interrupted (Ctrl-C), or ended by SIGTERM.",
}
VARIABLES = {
    "EEXP_MODEL": "The model, where -m is not given.",
    "EEXP_BASE": "The model to train, or the base of an adapter, where neither -m nor --base is given.",
    "EEXP_ENV": "The environment, where none is given.",
    "EEXP_SEED": "The seed, where --seed is not given.",
    "EEXP_PROMPT_STYLE": "The prompt style, where --prompt-style is not given.",
    "EEXP_GPU_LAYERS": "The layers that llama.cpp gives to a GPU, where --gpu-layers is not given.",
    "EEXP_COSTS": "The file to which stages add what they took, where --costs is not given.",
    "EEXP_ENV_TIMEOUT": "Seconds that an environment has for one answer (60 for exec:, otherwise 300).",
    "EEXP_ON": "Where the processes that hold environments run: local, or ray[:ADDRESS].",
    "EEXP_API_KEY": "Key for an OpenAI-compatible server. Without it, OPENAI_API_KEY is used.",
    "EEXP_HTTP_CONCURRENCY": "Requests that such a server has at once (16); of a fleet, each of them.",
    "EEXP_HTTP_RETRY_AFTER": "Seconds up to which it may ask for a pause (Retry-After) that is kept (300).",
    "EEXP_HTTP_RPM": "Requests a minute that it is asked at most, in even steps (no limit).",
    "EEXP_HTTP_TIMEOUT": "Seconds that it has for one answer (300).",
    "EEXP_HTTP_TRIES": "How often a request is made where the server is busy, fails or is cut off (6).",
    "XDG_CACHE_HOME": "The built-in model and trials of GGUF files are kept in its eexp directory (~/.cache).",
}


_SET_OFF = re.compile(r"(`[^`]+`|(?<![\w-])--?[a-z][\w-]*|\b(?:FILE|DIR|ENV|MODEL|TYPE|NAME)\b)")


# -- roff --------------------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Return plain text as roff that shows the same characters, so that they can be copied into a shell."""
    for plain, roff in {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}.items():
        text = text.replace(plain, roff)
    return re.sub(r"^([.])", r"\\&\1", text, flags=re.MULTILINE)


def bold(text: str) -> str:
    return rf"\fB{escape(text)}\fP"


def italic(text: str) -> str:
    return rf"\fI{escape(text)}\fP"


def prose(text: str) -> str:
    """Return one paragraph, with `code`, --options and PLACEHOLDERS set off."""
    pieces = []
    for i, part in enumerate(_SET_OFF.split(" ".join(text.split()))):
        plain = i % 2 == 0
        pieces.append(escape(part) if plain else bold(part.strip("`")) if part[0] in "`-" else italic(part))
    return "".join(pieces)


def block(lines: list[str]) -> list[str]:
    """Return lines as they are, indented."""
    return [".RS 4", ".EX", *[escape(line) for line in inspect.cleandoc("\n".join(lines)).split("\n")], ".EE", ".RE"]


def tagged(tag: str, text: str) -> list[str]:
    return [".TP", tag, prose(text)]


def page(name: str, section: int, what: str, parts: dict[str, list[str]]) -> str:
    """Return a whole page; `parts` that are empty are left out."""
    lines = [
        r".\" Made by man/build.py: do not edit.",
        f'.TH {escape(name.upper())} {section} "" "eexp {__version__}"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(what)}",
    ]
    for title, part in parts.items():
        if part:
            lines += [f".SH {title}", *part]
    return "\n".join(lines) + "\n"


# -- commands ----------------------------------------------------------------------------------------------------------


def paragraphs(command: click.Command) -> tuple[list[str], list[str]]:
    """Return description and examples of a command's help; paragraphs that begin with \\b keep their lines."""
    description, examples = [], []
    for text in inspect.cleandoc(f"{command.help}\n{command.epilog or ''}").split("\n\n"):
        if not text.startswith("\b\n"):
            description += [".PP", prose(text)]
            continue
        lines = text.split("\n")[1:]
        if lines[0] == "Example:":
            examples += block(lines[1:])
        else:
            if not lines[0].startswith(" "):
                description += [".PP", prose(lines.pop(0))]
            description += block(lines)
    return description[1:], examples


def metavar(option: click.Option, ctx: click.Context) -> str:
    """Return the placeholder after an option: \\fIFILE\\fP, or \\fBstop\\fP|\\fBskip\\fP."""
    if option.is_flag:
        return ""
    if option.metavar is None and isinstance(option.type, click.Choice):
        return " " + "|".join(bold(str(choice)) for choice in option.type.choices)
    return " " + italic(option.make_metavar(ctx))


def limits(kind: click.ParamType) -> str:
    """Return the range of a number, in words; "" for a type without one."""
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    low, high = kind.min, kind.max
    if low is not None and high is not None:
        return f"From {low:g} to {high:g}."
    if low is not None and (low or kind.min_open):
        return f"More than {low:g}." if kind.min_open else f"At least {low:g}."
    return ""


def options(ctx: click.Context) -> list[str]:
    """Return the OPTIONS section."""
    lines = []
    for option in ctx.command.get_params(ctx):
        if not isinstance(option, click.Option) or option.hidden:
            continue
        text, _, default = (option.help or "").rstrip().partition("[default: ")
        default = default[:-1]
        if not default and (default := option.get_help_extra(ctx).get("default", "")) and option.secondary_opts:
            default = f"--{default}"
        names = ", ".join(bold(name) for name in [*option.opts, *option.secondary_opts])
        facts = [text.strip(), "Required." if option.required else "", limits(option.type)]
        facts += [f"Default: {default}." if default else "", f"Environment: {option.envvar}." if option.envvar else ""]
        lines += [".TP", names + metavar(option, ctx), prose(" ".join(filter(None, facts)))]
    return lines


def environment(ctx: click.Context) -> list[str]:
    """Return the ENVIRONMENT section: the variables that a command reads, or all of them."""
    variables = {param.envvar for param in ctx.command.get_params(ctx)} if ctx.command is not group else VARIABLES
    return [line for name in VARIABLES if name in variables for line in tagged(bold(name), VARIABLES[name])]


def all_commands() -> dict[str, click.Command]:
    """Return every command by the words typed after `eexp`: "branch", "env", "env check"."""
    commands: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None, name
        commands[name] = command
        if isinstance(command, click.Group):
            commands |= {f"{name} {own}": subcommand for own, subcommand in command.commands.items()}
    return commands


def context(name: str | None) -> click.Context:
    """Return the context of a command; of `eexp` itself for None."""
    ctx = click.Context(group, info_name="eexp", **CONTEXT)
    for word in name.split() if name else []:
        assert isinstance(ctx.command, click.Group), name
        command = ctx.command.get_command(ctx, word)
        assert command is not None, name
        ctx = click.Context(command, info_name=word, parent=ctx)
    return ctx


def hyphened(name: str) -> str:
    """Return the name of a command's page, without its section."""
    return f"eexp-{name.replace(' ', '-')}"


def command_page(name: str | None) -> str:
    """Return the page of a command, or of `eexp` itself."""
    ctx = context(name)
    command = ctx.command
    description, examples = paragraphs(command)
    what = (command.help or "").partition("\n")[0]
    if description[0] == prose(what):  # it stands under NAME already
        description = description[2:]
    usage = [prose_usage(piece) for piece in command.collect_usage_pieces(ctx)]
    if any(isinstance(p, click.Argument) and str(p.metavar).endswith("]...") for p in command.params):
        description += [".PP", prose("Without FILE, or where FILE is -, standard input is read.")]
    parts = {"SYNOPSIS": [" ".join([bold(ctx.command_path), *usage])], "DESCRIPTION": description}
    if command is group:
        parts["COMMANDS"] = [line for title, own in GROUPS.items() for line in (f".SS {title}", *listed(own))]
    elif isinstance(command, click.Group):
        below = {f"{name} {own}": (c.help or "").partition("\n")[0] for own, c in command.commands.items()}
        parts["COMMANDS"] = listed(below)
    if name == "models":
        parts["MODELS"] = [
            line
            for kind in MODEL_KINDS
            for line in tagged(bold(kind.spec), f"{kind.line}. For example: `-m {kind.example}`.")
        ]
    parts["OPTIONS"] = options(ctx)
    parts["EXAMPLES"] = examples
    parts["EXIT STATUS"] = [line for code, text in EXIT_STATUS.items() for line in tagged(bold(str(code)), text)]
    parts["ENVIRONMENT"] = environment(ctx)
    parts["SEE ALSO"] = see_also(name, command.help or "")
    return page(hyphened(name) if name else "eexp", 1, lowered(what), parts)


def listed(commands: dict[str, str]) -> list[str]:
    """Return the pages of commands with their first lines, one tagged paragraph a command."""
    return [line for name, text in commands.items() for line in tagged(f"{bold(hyphened(name))}(1)", text)]


def prose_usage(piece: str) -> str:
    """Return a part of the usage line, its placeholders in italics."""
    return re.sub(r"[A-Z]+|[^A-Z]+", lambda m: italic(m[0]) if m[0].isupper() else escape(m[0]), piece)


def lowered(sentence: str) -> str:
    """Return a sentence as it stands under NAME: no capital, no full stop."""
    return sentence[0].lower() + sentence[1:].rstrip(".")


def capitalised(phrase: str) -> str:
    """Return a phrase as a sentence."""
    return f"{phrase[0].upper()}{phrase[1:]}."


def see_also(name: str | None, text: str) -> list[str]:
    """Return the SEE ALSO section: the commands that a docstring names."""
    if name is None:
        pages = [f"eexp-{n}(1)" for n in COMMANDS]
    else:
        named = [n for n in COMMANDS if n != name and re.search(rf"\b(eexp {n}\b|eexp-{n}\(7)", text)]
        pages = ["eexp(1)"] + [f"{hyphened(n)}(1)" for n in named]
    pages += ["eexp-env(7)"] if name is None or name.startswith("env") else []
    return [",\n".join(bold(one[:-3]) + one[-3:] for one in [*pages, "eexp-records(5)"])]


# -- records -----------------------------------------------------------------------------------------------------------


def in_words(field: dict) -> str:
    """Return the type of a field, in words."""
    if "anyOf" in field:
        return " or ".join(in_words(one) for one in field["anyOf"])
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2].lower()
    if "enum" in field:
        return " or ".join(f'"{value}"' for value in field["enum"])
    if field.get("type") == "array":
        return f"array of {in_words(field['items'])}"
    return field.get("type", "anything")


def fields(struct: dict) -> Iterator[str]:
    """Yield one tagged paragraph a field."""
    for name, field in struct["properties"].items():
        described = {**field, **next((one for one in field.get("anyOf", []) if "description" in one), {})}
        default = field.get("default")
        more = ", required" if name in struct.get("required", []) else ""
        more += f", default {str(default).lower()}" if default not in (None, []) else ""
        yield from [
            ".TP",
            rf"{bold(name)} ({escape(in_words(field) + more)})",
            prose(described.get("description", "")) or r"\&",
        ]


def records_page() -> str:
    """Return eexp-records(5), from the schemas that `eexp schema` prints."""
    structs = {}
    for kind in record_types.TYPES:
        structs.update(record_types.schema(kind)["$defs"])
    top = {kind.capitalize() for kind in record_types.TYPES}
    parts = {
        "DESCRIPTION": [
            prose(
                "`eexp` reads and writes JSONL: one JSON object a line, in UTF-8. A record is a trajectory, an example,"
                " an episode or a task, as its field `type` says. Fields not named here are kept and passed on."
                " Log-probabilities are natural logarithms, scores run from 0 to 1. `eexp schema` prints the same as"
                " JSON Schema."
            ),
            ".PP",
            prose(
                "A line is refused, with its place, if it holds an integer of more than 64 bits, which JSON parsers"
                " make another number, or is nested more than 246 levels deep. Text may hold any character; what eexp"
                " shows to a person has control characters and marks of direction as escapes such as \\x1b."
            ),
        ]
    }
    for name in sorted(structs, key=lambda n: n not in top):
        title = f"{name} {'records' if name in top else 'objects'}".upper()
        parts[title] = [prose(structs[name].get("description", "")), *fields(structs[name])]
    parts["EXAMPLES"] = block(
        ["eexp expert house -n 1 | eexp branch | eexp rollout | eexp show", "eexp schema trajectory"]
    )
    parts["SEE ALSO"] = [",\n".join(bold(n) + "(1)" for n in ("eexp", "eexp-schema", "eexp-show"))]
    return page("eexp-records", 5, "the records that eexp reads and writes", parts)


# -- the protocol of environments --------------------------------------------------------------------------------------


def protocol_page() -> str:
    """Return eexp-env(7), from the section of docs/environments/programs.md on programs as environments."""
    text = (HERE.parent / "docs" / "environments" / "programs.md").read_text(encoding="utf-8")
    section = re.search(r"^## (The exec protocol, version \d+)\n(.*?)(?:^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "docs/environments/programs.md has no section on the exec protocol"
    parts: dict[str, list[str]] = {"DESCRIPTION": []}
    lines = parts["DESCRIPTION"]
    tokens = MarkdownIt().enable("table").parse(section[2])
    for i, token in enumerate(tokens):
        inside = tokens[min(i + 1, len(tokens) - 1)]  # of a token that opens something, the first one in it
        if token.type == "heading_open":
            lines = parts.setdefault(inside.content.upper(), [])
        elif token.type == "paragraph_open" and not token.hidden:
            lines += [".PP", inline(inside)]
        elif token.type == "list_item_open":
            lines += [r".IP \(bu 2"]
        elif token.type in ("fence", "code_block"):
            lines += block(token.content.splitlines())
        elif token.type == "tr_open" and inside.type == "td_open":  # a row; what stands above the columns is left out
            name, type_name, *words = [inline(cell) for cell in tokens[i : i + 10] if cell.type == "inline"][:3]
            lines += [".TP", f"{name} ({type_name})", *(words if any(words) else [r"\&"])]
        elif token.type == "inline" and lines and lines[-1].startswith(".IP"):
            lines += [inline(token)]
    parts = {title: part[1:] if part[:1] == [".PP"] else part for title, part in parts.items()}
    kinds = [line for kind in KINDS for line in tagged(bold(kind.spec), capitalised(kind.line))]
    parts["ENVIRONMENTS"] = [prose("A program is one of the environments that a command takes as ENV:"), *kinds]
    parts["SEE ALSO"] = [",\n".join(bold(n) + "(1)" for n in ("eexp", "eexp-env-check", "eexp-rollout"))]
    return page("eexp-env", 7, lowered(f"{section[1]}: environments in any language"), parts)


def inline(token: Token) -> str:
    """Return text with its code and its strong words set off; of a link, the words."""
    pieces, strong = [], False
    for part in token.children or []:
        if part.type in ("strong_open", "strong_close"):
            strong = part.type == "strong_open"
        elif part.type == "code_inline" or (part.type == "text" and strong):
            pieces.append(bold(part.content))
        elif part.type == "text":
            pieces.append(escape(part.content))
        elif part.type == "softbreak":
            pieces.append(" ")
    return "".join(pieces)


def pages() -> dict[str, str]:
    """Return every page, by the name of its file."""
    fixed = {"eexp.1": command_page(None), "eexp-records.5": records_page(), "eexp-env.7": protocol_page()}
    return fixed | {f"{hyphened(name)}.1": command_page(name) for name in all_commands()}


def main() -> None:
    """Write the pages, and remove those of commands that are gone."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    texts = pages()
    for stale in {*directory.glob("eexp*.[157]")} - {directory / name for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
