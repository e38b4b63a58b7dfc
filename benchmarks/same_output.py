"""Run every command that writes records under two trees of eexp, with every option. Claim: the bytes are the same.

    python benchmarks/same_output.py v0.1.0                      # a commit against this tree: some minutes
    python benchmarks/same_output.py OLD NEW --keep DIR          # two checkouts; the outputs stay in DIR
    python benchmarks/same_output.py OLD --keep DIR --only 'branch*,score'
    python benchmarks/same_output.py --check                     # is every option exercised? seconds

OLD and NEW are checkouts or commits; NEW is this tree unless given. The calls (same_output_calls.py) run under OLD and
then under NEW, each on what the same tree wrote before. All that a call writes is compared: standard output, files and
exit code; and first of all the names, types and defaults of all options. A call that differs is one line, with the
place of the first difference. A call with a command or an option that OLD does not have is named and not compared, and
so is one that reads what it writes. With --keep DIR, a call of OLD is not run again unless it or what it reads has
changed, and DIR/old/NAME and DIR/new/NAME hold what the call NAME wrote.

Both trees run as copies, so that either may be edited meanwhile. Their version is set to 0.0.0, since it stands in
lineage and in the GGUF files of adapters, whose fingerprints stand in lineage in turn. The paths of the trees and the
port of the server that some calls ask are taken out of what is compared. Nothing else may differ.

Texts for people are compared, too, and may differ: what show, env and stats print, model cards, pages, pictures, the
reasons in a rejects file, the descriptions in a schema. Such a difference is marked "text" and changes no exit code.

The models are the built-in one, what is trained from it here, and a server in this process. Needs the packages that the
tests need; uses one thread and no GPU. Ends with exit code 1 where records differ, and where an option is neither
exercised by a call nor named in NO_EFFECT.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USAGE_ERROR = 2  # the exit code
sys.path.insert(0, str(ROOT / "benchmarks"))

from same_output_calls import CALLS, DERIVED, GIVEN, NO_EFFECT, STDIN, Call, lines, model_server  # noqa: E402

# -- running -----------------------------------------------------------------------------------------------------------

LONGEST, TIMED_OUT = 600.0, 124  # seconds of one call, and the exit code that stands for more
_REFERENCE = re.compile(r"@([a-z][\w.-]*)(/[\w./-]*)?")

#: Run in a tree: prints what click knows of every command, and which options and values each call gives.
_INTROSPECTION = """
import json, sys
import click, eexp.cli

root = next(value for value in vars(eexp.cli).values() if isinstance(value, click.Group))
calls = json.load(sys.stdin)
surface, exercised, refused = {}, [], {}


def label_of(param):
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name


def facts_of(param):
    fact = param.to_info_dict()
    fact["type"].pop("param_type")  # the name of a class
    absent = fact["default"] in (None, False, [], ()) or "UNSET" in repr(fact["default"])
    return {**fact, "name": None, "help": None, "default": None if absent else fact["default"]}


def walk(command, words, parent):
    ctx = click.Context(command, parent=parent, info_name=words[-1] if words else "eexp")
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            walk(command.get_command(ctx, name), [*words, name], ctx)
        return
    surface[" ".join(words)] = {label_of(param): facts_of(param) for param in command.params}


walk(root, [], None)
for name, words in calls.items():
    command, path, ctx = root, [], click.Context(root)
    try:
        while isinstance(command, click.Group) and words:  # `eexp models` alone lists
            subcommand, command, words = command.resolve_command(ctx, words)
            path.append(subcommand)
            ctx = click.Context(command, parent=ctx)
        values, _, order = command.make_parser(ctx).parse_args(args=list(words))
    except click.UsageError as e:
        refused[name] = e.format_message()
        continue
    for param in order:
        value = values.get(param.name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            exercised.append([" ".join(path), label_of(param), one if isinstance(one, (str, bool)) else None])
    exercised.append([" ".join(path), "", None])
json.dump({"surface": surface, "exercised": exercised, "refused": refused}, sys.stdout, default=repr)
"""


class Broken(Exception):
    """The calls do not do what they are there for; the message says which."""


class Tree:
    """A copy of a tree of eexp, and the directory in which its calls run, each in one of its own."""

    def __init__(self, source: str | None, place: Path, server: str, keep: bool):
        self.name, self.place, self.server, self.keep = place.name, place, server, keep
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
        self.code = place / "tree"
        shutil.rmtree(self.code, ignore_errors=True)
        _copy(source, self.code)
        self.digest = _digest_of(self.code)
        self.given = place / "given"
        for directory in (self.given, place / "cache", place / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        for name, text in GIVEN.items():
            (self.given / name).write_text(text)
        self.codes: dict[str, int] = {}
        self.ran = 0

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a call: no settings of the user, one thread, no GPU, no network."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("EEXP_", "OPENAI_"))}
        return {
            **variables,
            "PYTHONPATH": os.pathsep.join([str(self.code), str(self.given)]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
            "TMPDIR": str(self.place / "tmp"),
            "XDG_CACHE_HOME": str(self.place / "cache"),
        }

    def introspect(self) -> dict:
        """Return the options of all commands, those that the calls exercise, and why it refuses which calls."""
        calls = {name: shlex.split(call.words) for name, call in CALLS.items()}
        process = subprocess.run(
            [sys.executable, "-c", _INTROSPECTION],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=self.place,
        )
        if process.returncode:
            raise Broken(f"{self.name}: {process.stderr.strip().splitlines()[-1]}")
        return json.loads(process.stdout)

    def read(self, name: str) -> list[dict]:
        """Return the records that a call wrote to standard output, after running it."""
        self.run(name)
        return [json.loads(line) for line in (self.place / name / "out").read_bytes().splitlines()]

    def run(self, name: str) -> None:
        """Run a call, and those that write what it reads, unless that was done."""
        if name in self.codes:
            return
        call, inputs = CALLS[name], hashlib.sha256(f"{self.digest} {CALLS[name]} {STDIN.get(name)}".encode())
        for file in self._files(call):
            for part in sorted(file.rglob("*")) if file.is_dir() else [file]:
                inputs.update(self.neutral(part.read_bytes()) if part.is_file() else b"")
        directory, marker = self.place / name, self.place / f"{name}.json"
        key = inputs.hexdigest()
        if self.keep and marker.exists() and (before := json.loads(marker.read_bytes()))["key"] == key:
            self.codes[name] = before["code"]
            return
        shutil.rmtree(directory, ignore_errors=True)
        marker.unlink(missing_ok=True)
        directory.mkdir()
        words = [_REFERENCE.sub(self._path, word) for word in shlex.split(call.words)]
        self.codes[name] = self._eexp(words, STDIN.get(name, b""), directory)
        self.ran += 1
        marker.write_text(json.dumps({"key": key, "code": self.codes[name]}))

    def _eexp(self, words: list[str], stdin: bytes, directory: Path) -> int:
        """Run eexp in a directory, standard output to the file "out" and errors beside it; returns the exit code."""
        with open(directory / "out", "wb") as out, open(f"{directory}.err", "wb") as errors:
            try:
                return subprocess.run(
                    [sys.executable, "-m", "eexp", *words],
                    input=stdin,
                    stdout=out,
                    stderr=errors,
                    env=self.environment(),
                    cwd=directory,
                    timeout=LONGEST,
                ).returncode
            except subprocess.TimeoutExpired:
                errors.write(f"killed after {LONGEST:g} s".encode())
                return TIMED_OUT

    def _files(self, call: Call) -> Iterator[Path]:
        """Yield the files and directories that a call reads, after having them written."""
        for name, within in _REFERENCE.findall(call.words):
            if name in CALLS:
                self.run(name)
                yield self.place / name / (within[1:] if within else "out")
            elif name in DERIVED:
                (self.given / name).write_bytes(self._derived(name))
                yield self.given / name
            elif name in GIVEN:
                yield self.given / name
            elif name != "server":
                raise Broken(f"{call.words}: nothing is called {name}")
        modules = (name for name in GIVEN if f"{name.removesuffix('.py')}:" in call.words)  # as in countdown:Countdown
        yield from (self.given / name for name in modules)

    def _derived(self, name: str) -> bytes:
        """Return a file of DERIVED; nothing where what it is made from is no more what it should be."""
        try:
            return DERIVED[name](self.read)
        except (ValueError, LookupError, TypeError):
            return b""

    def _path(self, reference: re.Match) -> str:
        """Return what stands for a reference in an argument: a path from the directory of a call, or the URL."""
        name, within = reference.groups()
        if name == "server":
            return self.server
        return f"../{name}/{(within or '/out')[1:]}" if name in CALLS else f"../given/{name}"

    def last_error(self, name: str) -> str:
        """Return the last line of a call's standard error."""
        return ((self.place / f"{name}.err").read_text(errors="replace").strip().splitlines() or ["no message"])[-1]

    def neutral(self, content: bytes) -> bytes:
        """Return an output without what depends on where the tree lies and on the server's port."""
        content = content.replace(str(self.place).encode(), b"<here>")
        content = re.sub(rb'<here>/tree/[^"`\s]*', b"<tree>", content)
        content = re.sub(rb"127\.0\.0\.1:\d+", b"<server>", content)
        content = re.sub(rb"milliseconds, median and longest: [^\n]*", b"<times>", content)  # in `eexp env check`
        return re.sub(rb"[\d.e+-]+ ms each|[\d.]+ s for ", b"<time>", content)  # its --conformance; `eexp models check`

    def outputs(self, name: str) -> dict[str, bytes]:
        """Return everything that a call wrote, by the names of the files; "out" is standard output."""
        directory = self.place / name
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        return {str(path.relative_to(directory)): self.neutral(path.read_bytes()) for path in files}


def _copy(source: str | None, target: Path) -> None:
    """Copy the package out of a checkout (None: this one) or a commit, and set its version to 0.0.0."""
    target.mkdir(parents=True)
    if source is None or os.path.isdir(source):
        package = Path(source or ROOT) / "eexp"
        if not package.is_dir():
            raise Broken(f"{source}: no checkout of eexp")
        shutil.copytree(package, target / "eexp", ignore=shutil.ignore_patterns("__pycache__"))
    else:
        git = ["git", "-C", str(ROOT), "archive", source, "eexp"]
        archive = subprocess.run(git, capture_output=True)
        if archive.returncode:
            raise Broken(f"{source}: neither a directory nor a commit: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    init = target / "eexp" / "__init__.py"
    text, versions = re.subn(r'^__version__ = ".*"$', '__version__ = "0.0.0"', init.read_text(), flags=re.MULTILINE)
    if versions != 1:
        raise Broken(f"{source or ROOT}: eexp/__init__.py has no line __version__ = ...")
    init.write_text(text)


def _digest_of(tree: Path) -> str:
    """Return a hash of a tree and of the packages beside it, which decide what is written as well."""
    digest = hashlib.sha256(repr((sys.version, sorted((d.name, d.version) for d in distributions()))).encode())
    for path in sorted(tree.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(tree)} ".encode() + path.read_bytes())
    return digest.hexdigest()


# -- comparing ---------------------------------------------------------------------------------------------------------

_TEXT_FILES = {".md", ".svg", ".png"}
_EMBEDDED = re.compile(rb'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)


def records_in(call: Call, name: str, content: bytes) -> bytes:
    """Return what of an output has to stay as it is; the rest is text for people. Raises ValueError for broken JSON."""
    if Path(name).suffix == ".html":
        return b"\n".join(_EMBEDDED.findall(content))
    if Path(name).suffix in _TEXT_FILES or (call.text and name == "out"):
        return b""
    if name == "rejects.jsonl":
        rejects = [json.loads(line) for line in content.splitlines()]
        return lines([{key: value for key, value in reject.items() if key != "error"} for reject in rejects])
    if call.words.startswith("schema "):
        return json.dumps(_without_descriptions(json.loads(content)), indent=1).encode()
    return content


def _without_descriptions(schema: object) -> object:
    if isinstance(schema, dict):
        return {k: _without_descriptions(v) for k, v in schema.items() if k != "description" or isinstance(v, dict)}
    return [_without_descriptions(value) for value in schema] if isinstance(schema, list) else schema


def first_difference(old: bytes, new: bytes) -> str:
    """Return where two outputs begin to differ, and what stands there in each."""
    at = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    if b"\0" in old[:4096] or b"\0" in new[:4096]:
        excerpts = [f"{text[at : at + 8].hex(' ')} (of {len(text):,})" for text in (old, new)]
        return f"byte {at:,}: {excerpts[0]} | {excerpts[1]}"
    start = old.rfind(b"\n", 0, at) + 1
    excerpts = [_excerpt(text, start, at) for text in (old, new)]
    line = old[:at].count(b"\n") + 1
    return f"line {line}, column {at - start + 1}: {excerpts[0]} | {excerpts[1]}"


def _excerpt(text: bytes, start: int, at: int) -> str:
    """Return the part of a line around a place in it."""
    line = text[max(start, at - 40) : at + 60].decode("utf-8", "replace")
    return repr(line.partition("\n")[0]) if at < len(text) else "its end"


def differences(old: Tree, new: Tree, name: str) -> Iterator[tuple[str, bool]]:
    """Yield how a call differs, and whether only in text for people: at most one of each kind."""
    call = CALLS[name]
    if old.codes[name] != new.codes[name]:
        yield f"exit code {old.codes[name]} | {new.codes[name]}: {new.last_error(name)}", False
        return
    files = old.outputs(name), new.outputs(name)
    text = None
    for file in sorted({*files[0], *files[1]}):
        if file not in files[0] or file not in files[1]:
            yield f"{file} is written by {'old' if file in files[0] else 'new'} alone", False
            return
        contents = files[0][file], files[1][file]
        if contents[0] == contents[1]:
            continue
        try:
            records = [records_in(call, file, content) for content in contents]
        except ValueError:
            records = list(contents)
        if records[0] != records[1]:
            yield f"{file}: {first_difference(*records)}", False
            return
        text = text or f"{file}: {first_difference(*contents)}"
    if text:
        yield text, True


def changed_options(old: dict, new: dict) -> Iterator[str]:
    """Yield what differs in the options of two trees."""
    for command in sorted({*old, *new}):
        before, after = old.get(command), new.get(command)
        if before is None or after is None:
            yield f"{command} is {'new' if before is None else 'gone'}"
            continue
        for option in sorted({*before, *after}):
            if option not in before or option not in after:
                yield f"{command} {option} is {'gone' if option in before else 'new'}"
            elif before[option] != after[option]:
                facts = {*before[option], *after[option]}
                names = (k for k in sorted(facts) if before[option].get(k) != after[option].get(k))
                for k in names:
                    yield f"{command} {option}: {k} is {before[option].get(k)} | {after[option].get(k)}"


def not_exercised(introspection: dict) -> Iterator[str]:
    """Yield the commands, options and values that no call exercises and NO_EFFECT does not name."""
    exercised = {tuple(one) for one in introspection["exercised"]}
    unused = set(NO_EFFECT)

    def named(command: str, what: str) -> bool:
        keys = {f"{command} {what}".strip(), what, command}
        unused.difference_update(keys)
        return bool(keys & NO_EFFECT.keys())

    for command, options in introspection["surface"].items():
        if named(command, ""):
            continue
        if (command, "", None) not in exercised:
            yield f"{command}: no call"
        for option, fact in options.items():
            if named(command, option):
                continue
            exercised_values = {value for a, b, value in exercised if (a, b) == (command, option)}
            if not exercised_values:
                yield f"{command} {option}"
            values = fact["type"].get("choices") or ([True, False] if fact.get("secondary_opts") else [])
            for value in values:
                if value in exercised_values or value == fact.get("default"):
                    continue
                if not named(command, f"{option}={value}"):
                    yield f"{command} {option}: not with {value}"
    yield from (f"NO_EFFECT names {key}, which is no option" for key in sorted(unused))


def not_in(refused: dict[str, str]) -> dict[str, str]:
    """Return the calls that cannot run in a tree, with the reasons: those it refuses, and those that read from them."""
    reads = {name: {one for one, _ in _REFERENCE.findall(call.words)} for name, call in CALLS.items()}
    missing = dict(refused)
    while more := {
        name: min(reads[name] & missing.keys()) for name in reads.keys() - missing if reads[name] & missing.keys()
    }:
        missing |= {name: f"it reads @{one}" for name, one in more.items()}
    return missing


def check_coverage(tree: Tree, introspection: dict) -> None:
    """Print how much the calls cover. Raises Broken where an option is missing."""
    for name, why in introspection["refused"].items():
        raise Broken(f"{tree.name}: {name}: {why}")
    if missing := list(not_exercised(introspection)):
        raise Broken("options that no call exercises: " + "; ".join(missing))
    options = sum(len(facts) for facts in introspection["surface"].values())
    texts = sum(call.text for call in CALLS.values())
    print(
        f"{tree.name}: {len(introspection['surface'])} commands with {options} options and arguments; "
        f"{len(CALLS)} calls, {texts} of them for people",
        flush=True,
    )


def run_all(tree: Tree, names: list[str], report: Callable[[str], None] = lambda name: None) -> None:
    """Run calls one after the other; `report` is told of each."""
    began = time.monotonic()
    for n, name in enumerate(names, 1):
        if sys.stderr.isatty():
            print(f"\r\x1b[K{tree.name} {n}/{len(names)} {name}", end="\r", file=sys.stderr, flush=True)
        tree.run(name)
        report(name)
    print(f"{tree.name}: {tree.ran} calls run in {time.monotonic() - began:.0f} s", flush=True)


def check_old(tree: Tree, names: list[str]) -> None:
    """Raise Broken where one of the calls under the old tree did not end as it should, or wrote nothing."""
    problems = []
    for name in names:
        call, code = CALLS[name], tree.codes[name]
        if code != call.code:
            problems.append(f"{name}: exit code {code} instead of {call.code}: {tree.last_error(name)}")
        elif not call.text and not _wrote(call, tree.outputs(name)):
            problems.append(f"{name}: wrote nothing, or set nothing aside: {tree.last_error(name)}")
    if problems:
        raise Broken("\n  ".join([f"calls that prove nothing under {tree.name}:", *problems]))


def _wrote(call: Call, outputs: dict[str, bytes]) -> bool:
    """Return whether a call wrote records and, if it sets some aside, rejects where it is to keep them."""
    files = {file for file, content in outputs.items() if content}
    if call.code == 0:
        return bool(files)
    return bool(files - {"rejects.jsonl"}) and ("rejects.jsonl" in files or "rejects.jsonl" not in outputs)


@contextmanager
def workplace(keep: str | None) -> Iterator[Path]:
    """Yield the directory in which everything happens."""
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="eexp-same-") as directory:
        yield Path(directory).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", nargs="?", metavar="OLD", help="a checkout or a commit")
    parser.add_argument("new", nargs="?", metavar="NEW", help="a checkout or a commit; this tree if not given")
    parser.add_argument(
        "--only", metavar="NAME,...", help="these calls, and those that write what they read; * is any text"
    )
    parser.add_argument(
        "--keep", metavar="DIR", help="keep all outputs here, and do not run OLD again where it is there"
    )
    parser.add_argument("--check", action="store_true", help="only check that every option is exercised")
    chosen = parser.parse_args()
    names = [n for n in CALLS if any(fnmatch.fnmatch(n, one) for one in (chosen.only or "*").split(","))]
    if not names:
        parser.error(f"--only {chosen.only}: no such call; there are: {', '.join(CALLS)}")
    if not (chosen.old or chosen.check):
        parser.error("OLD is missing")
    try:
        with workplace(chosen.keep) as place, model_server() as server:
            new = Tree(chosen.new, place / "new", server, keep=False)
            introspection = new.introspect()
            if not chosen.only:
                check_coverage(new, introspection)
            elif refused := [f"{n}: {introspection['refused'][n]}" for n in names if n in introspection["refused"]]:
                raise Broken(f"{new.name}: {'; '.join(refused)}")
            if not chosen.check:
                old = Tree(chosen.old, place / "old", server, keep=chosen.keep is not None)
                sys.exit(compare(old, new, introspection["surface"], names))
    except Broken as e:
        sys.exit(f"error: {e}")


def compare(old: Tree, new: Tree, new_options: dict, names: list[str]) -> int:
    """Run the calls under both trees and print what differs; returns the exit code."""
    introspection = old.introspect()
    changed = list(changed_options(introspection["surface"], new_options))
    for line in changed:
        print(f"options: {line}", flush=True)
    missing = not_in(introspection["refused"])
    run_all(old, [name for name in names if name not in missing])
    # A value that OLD does not know, of an option that it has, shows only in the run.
    unknown = {n: old.last_error(n) for n, code in old.codes.items() if code == USAGE_ERROR != CALLS[n].code}
    missing = not_in(introspection["refused"] | unknown)
    for name in filter(missing.get, names):
        print(f"{name}: not in OLD, not compared: {missing[name]}", flush=True)
    names = [name for name in names if name not in missing]
    check_old(old, names)
    differing: dict[bool, list[str]] = {False: [], True: []}

    def report(name: str) -> None:
        for difference, is_text in differences(old, new, name):
            differing[is_text].append(name)
            inherited = any(one in differing[False] for one, _ in _REFERENCE.findall(CALLS[name].words))
            mark = " (text)" if is_text else " (so does what it reads)" if inherited else ""
            print(f"{name}{mark}: {difference}", flush=True)

    run_all(new, names, report)
    records, texts = len(differing[False]), len(differing[True])
    print(
        f"{len(names)} calls: {records or 'none'} differ in what they write, {texts or 'none'} in texts for people; "
        f"options: {'differ' if changed else 'the same'}"
    )
    return 1 if records or changed else 0


if __name__ == "__main__":
    main()
