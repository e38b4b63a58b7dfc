"""Open environments by their specs, and decide which of them a record may name."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches

from eexp.envs.answers import checked
from eexp.envs.base import Environment
from eexp.envs.logins import withhold_logins, without_logins
from eexp.envs.registry import (
    CHANGED,
    ENVIRONMENTS,
    NOISY,
    PROGRAM,
    SERVERS,
    WORLD_MODEL,
    WRAPPERS,
    entry_of,
    environment_names,
    known_specs,
)
from eexp.envs.spec_options import refuse_unknown_options, split_options
from eexp.errors import EexpError, InputError, UsageError, describe
from eexp.records.imagination import is_imagined
from eexp.records.runs import split_adapter

_NOT_REPLAYED = "a record that was imported without --env names its format here: import it again with --env SPEC"
_PROGRAM = f"{PROGRAM.name}:"
_BEGINNINGS = "beginnings"  # the option of an environment from a world model that stands in place of ENV


def open_env(spec: str) -> Environment:
    """Open the environment that `spec` names.

    A login in a URL (`http://user:password@host`) is sent to the server and is not part of the environment's own
    `spec`.

    Raises:
        UsageError: There is no such environment, or its options make no sense.
        EexpError: It cannot start, because a package is missing for instance.
    """
    spec = withhold_logins(spec)
    if wrapper_of(spec):
        return _open_wrapped(spec)
    if is_imagined(spec):
        return _open_imagined(spec, None)
    if spec.startswith(_PROGRAM):
        from eexp.envs.bridges.program import Program

        return Program(spec)
    name, _, _ = spec.partition("?")
    scheme, _, target = name.partition(":")
    environment_class, options = _class_of(spec), split_options(spec)
    has_target = scheme in SERVERS
    refuse_unknown_options(name, environment_class, options, has_target)
    try:
        env = environment_class(*([target] if has_target else []), **options)
    except TypeError as e:
        raise UsageError(f"environment {spec!r}: {e}") from e
    except (EexpError, MemoryError, OSError):
        raise
    except Exception as e:  # a mistake in a class that is not part of eexp
        raise EexpError(f"environment {spec!r} cannot be opened: {describe(e)}") from e
    env.spec = spec
    if type(env.max_steps) is not int or env.max_steps < 1:
        raise EexpError(f"environment {spec!r}: max_steps is {env.max_steps!r}, expected a whole number from 1 on")
    return env


def _search_working_directory() -> None:
    """Let modules be found in the working directory, as `python -m` does, but after everything that is installed.

    A file there that has the name of a library, such as `datasets.py`, is then not loaded in place of the library.
    """
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.append(directory)
        importlib.invalidate_caches()


def _class_of(spec: str) -> type[Environment]:
    """Import the class behind a spec that is neither a program nor has wrappers. Raises as `open_env` does."""
    name = spec.partition("?")[0]
    if entry := entry_of(spec):
        environment_class, source = ENVIRONMENTS.load(entry.name), f"{entry.path} of {entry.origin}"
    elif ":" in name:
        environment_class, source = _class_in_module(spec), name
    else:
        close = get_close_matches(name, environment_names())
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known_specs())}"
        raise UsageError(f"unknown environment {spec!r}; {hint}")
    if not (isinstance(environment_class, type) and issubclass(environment_class, Environment)):
        raise UsageError(f"environment {spec!r}: {source} is not a class derived from eexp.envs.Environment")
    return checked(environment_class)


def _class_in_module(spec: str) -> object:
    """Return what `package.module:Class` of a spec names, installed or in the working directory."""
    module_name, _, attribute = spec.partition("?")[0].partition(":")
    _search_working_directory()
    try:
        module = importlib.import_module(module_name)
    except ImportError as e:
        hint = ""
        if module_name.endswith(".py"):
            hint = f"; a module is named without .py: {module_name.removesuffix('.py')}:{attribute}"
        elif isinstance(e, ModuleNotFoundError) and e.name == module_name:
            hint = f", neither installed nor in {os.getcwd()}"
        raise EexpError(f"environment {spec!r} cannot be loaded: {e}{hint}") from None
    except Exception as e:  # a mistake in a module that is not part of eexp
        raise EexpError(f"environment {spec!r} cannot be loaded: {describe(e)}") from e
    if not hasattr(module, attribute):
        raise UsageError(
            f"environment {spec!r}: {getattr(module, '__file__', None) or module_name} has no {attribute!r}"
        )
    return getattr(module, attribute)


def unsafe_in_records(spec: str) -> str | None:
    """Return why a record alone may not name this environment; None where it may.

    Records come from anywhere and choose tasks. They may not choose code, a URL, or an option that the environment's
    class does not leave to them (`Environment.record_options`), such as the path of the games.

    Raises:
        UsageError: There is no such environment.
        EexpError: The environment's class cannot be loaded.
    """
    if is_imagined(spec):
        return "asks a model, which a record alone may not"
    if files := wrapper_files(spec):
        return f"names the file {files[0]!r}, which a record alone may not"
    spec = without_wrappers(spec)
    name, _, options = spec.partition("?")
    if ":" in name:
        return "runs a program, runs code of yours or asks a server"
    if not options:
        return None
    allowed = _class_of(spec).record_options
    for option in split_options(spec):
        if option not in allowed:
            return f"sets {option!r}, which a record alone may not"
    return None


def wrapper_of(spec: str) -> str | None:
    """Return the name of the wrapper that a spec begins with, such as `noisy`; None for an environment without one.

    A world model that begins where trajectories do (`beginnings=FILE`) has no environment inside.
    """
    name, colon, _ = spec.partition(":")
    if name == WORLD_MODEL.name and colon and _BEGINNINGS in _split_imagined(spec)[1]:
        return None
    return name if colon and name in WRAPPERS else None


def _open_wrapped(spec: str) -> Environment:
    unwrapped(spec)  # raises before anything is opened
    name, argument, inner = _split_wrapper(spec)
    world = open_env(inner)
    try:
        if name == NOISY.name:
            from eexp.envs.noisy import Noisy

            env: Environment = Noisy(world, _share(spec, argument))
        elif name == WORLD_MODEL.name:
            env = _open_imagined(spec, world)
        else:
            from eexp.envs.changed import change

            env = change(world, argument, unwrapped(inner)[0].partition("?")[0])
    except BaseException:
        world.close()
        raise
    env.spec = spec
    return env


def _open_imagined(spec: str, world: Environment | None) -> Environment:
    """Open an environment from a world model; `world`: the one that it imagines, None for recorded beginnings."""
    from eexp.envs.imagined import ImaginedWorld, RecordedBeginnings

    model, options, inner = _split_imagined(spec)
    file = options.pop(_BEGINNINGS, None)
    if not model or not (world or file) or (inner and file):
        raise _wrong_form(spec, WORLD_MODEL.name)
    refuse_unknown_options(WORLD_MODEL.name, ImaginedWorld, options, has_target=True)
    env = ImaginedWorld(model, world or RecordedBeginnings(str(file)), **options)
    env.spec = spec
    return env


def _split_imagined(spec: str) -> tuple[str, dict[str, str], str]:
    """Return MODEL, the options, and ENV ("" without one) of `worldmodel:MODEL?KEY=VALUE&env=ENV`.

    `env` stands last, so that options of ENV are its own.
    """
    rest = spec.partition(":")[2]
    model, _, text = rest.partition("?")
    own, _, inner = text.partition("env=") if text.startswith("env=") else text.partition("&env=")
    return model, split_options(f"{WORLD_MODEL.name}?{own}"), inner


def _wrong_form(spec: str, name: str) -> UsageError:
    """Return the error for a wrapper's spec that has another form than the wrapper's."""
    examples = {NOISY.name: "noisy:0.1:house", WORLD_MODEL.name: "worldmodel:hf:tiny+DIR?env=house"}
    example = examples.get(name, "changed:names:house")
    return UsageError(f"environment {spec!r}: expected {WRAPPERS[name].spec}, as in {example}")


def _split_wrapper(spec: str) -> tuple[str, str, str]:
    """Return NAME, ARGUMENT and ENV of `NAME:ARGUMENT:ENV`. Raises UsageError if the spec has another form."""
    name, _, rest = spec.partition(":")
    if name == WORLD_MODEL.name:
        model, _, inner = _split_imagined(spec)
        if not inner or not model:
            raise _wrong_form(spec, name)
        return name, spec.removeprefix(f"{name}:").removesuffix(f"env={inner}"), inner
    argument, _, inner = rest.partition(":")
    if name == NOISY.name:
        _share(spec, argument)
    if not inner or not argument:
        raise _wrong_form(spec, name)
    return name, argument, inner


def _share(spec: str, number: str) -> float:
    """Return the share P of `noisy:P:ENV`. Raises UsageError if it is none."""
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"environment {spec!r}: expected noisy:P:ENV with P from 0 to below 1, as in noisy:0.1:house")
    return share


def unwrapped(spec: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the environment inside all wrappers of a spec, and the wrappers, outermost first, as (name, argument).

    Raises:
        UsageError: A wrapper has another form, or stands there twice.
    """
    wrappers: list[tuple[str, str]] = []
    inner = spec
    while wrapper_of(inner):
        name, argument, inner = _split_wrapper(inner)
        wrappers.append((name, argument))
    kinds = [f"{name}:{argument.partition('=')[0]}" if name == CHANGED.name else name for name, argument in wrappers]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise UsageError(f"environment {spec!r}: {kind} is given twice")
    return inner, wrappers


def without_wrappers(spec: str) -> str:
    """Return ENV for `noisy:P:ENV`, `changed:KIND:ENV` and `worldmodel:MODEL?env=ENV`, and any other spec as it is.

    Raises:
        UsageError: The spec begins with the name of a wrapper and has another form.
    """
    return unwrapped(spec)[0]


def imagined_env(spec: str) -> str | None:
    """Return ENV of `worldmodel:MODEL?env=ENV`; None where recorded beginnings stand in its place."""
    return _split_imagined(spec)[2] or None


def world_model_files(spec: str) -> list[str]:
    """Return the model and the file of beginnings that a spec names, as it names them; none in a real environment."""
    while wrapper_of(spec) in (CHANGED.name, NOISY.name):
        spec = _split_wrapper(spec)[2]
    if not is_imagined(spec):
        return []
    model, options, _ = _split_imagined(spec)
    parts = [part for part in split_adapter(model.removeprefix("hf:")) if part]
    return [*parts, *(options[option] for option in ("style", _BEGINNINGS) if option in options)]


def wrapper_files(spec: str) -> list[str]:
    """Return the files that the wrappers of a spec name, such as that of `changed:names=FILE:ENV`, but no models."""
    arguments = [argument for name, argument in unwrapped(spec)[1] if name == CHANGED.name]
    return [file for argument in arguments if (file := argument.partition("=")[2])]


class OpenEnvironments:
    """The environments that a process has open, by the spec that the records name. Use as a context manager.

    Records may come from anywhere. A record whose spec does more than choose tasks (`unsafe_in_records`) is refused
    unless the environment was given on the command line.

    Args:
        allowed: The environment of the command line (--env), which then stands for those of all records.
    """

    def __init__(self, allowed: str | None = None):
        self.allowed = allowed and withhold_logins(allowed)
        self._open: dict[str, Environment] = {}

    def get(self, spec: str) -> Environment:
        """Return the environment for a record's spec, opened if it is not open.

        Raises:
            InputError: The record names an environment that does not exist or that it may not name.
            UsageError: The environment of the command line does not exist.
            EexpError: The environment cannot start.
        """
        if self.allowed and is_imagined(self.allowed) != is_imagined(spec):
            kinds = (
                ("in an imagined environment", "a real one")
                if is_imagined(spec)
                else ("in a real environment", "imagined")
            )
            raise InputError(f"was recorded {kinds[0]}, and {self.allowed!r} is {kinds[1]}", "$.env")
        spec = self.allowed or without_logins(spec)
        if spec not in self._open:
            try:
                if not self.allowed and (reason := unsafe_in_records(spec)):
                    raise InputError(f"{spec!r} {reason}; allow it with --env {spec!r}", "$.env")
                self._open[spec] = open_env(spec)
            except UsageError as e:
                if self.allowed:
                    raise
                known = wrapper_of(spec) or ":" in spec.partition("?")[0] or entry_of(spec)
                hint = "" if known else f"; {_NOT_REPLAYED}"
                raise InputError(f"{e}{hint}", "$.env") from None
        return self._open[spec]

    def __enter__(self) -> OpenEnvironments:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them. `get` opens them again."""
        for env in self._open.values():
            env.close()
        self._open.clear()
