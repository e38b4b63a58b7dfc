"""The servers of a fleet, as a command line names them: addresses with commas between them, or a TOML file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Optional

from msgspec import Meta, Struct

from eexp.errors import InputError, UsageError
from eexp.models.backends.client import KEY_VARIABLES
from eexp.records.toml_file import read_structure

ENDING = ".toml"
#: What stands between two addresses. A comma may also stand in a password or in the name of a model.
_BETWEEN = re.compile(r",\s*(?=https?://)")
#: How the variables begin that may hold the key for a server. A file chooses among these alone: it cannot send others.
KEY_PREFIX = f"{KEY_VARIABLES[0]}_"

_Positive = Annotated[float, Meta(gt=0, lt=1e9)]
_Count = Annotated[int, Meta(gt=0, lt=10**9)]


class FleetServer(Struct, frozen=True, forbid_unknown_fields=True):
    """A server of a fleet.

    Attributes:
        url: Its address, as in http://HOST:PORT/v1.
        name: What messages call it; the address if empty.
        weight: Its share of the work, beside the weights of the others.
        concurrency, timeout, tries, rpm, retry_after: As in `client.Client`.
        key_variable: The environment variable that holds its key; those of other servers if None.
    """

    url: str
    name: Annotated[str, Meta(max_length=100)] = ""
    weight: _Positive = 1.0
    concurrency: Optional[_Count] = None
    timeout: Optional[_Positive] = None
    tries: Optional[_Count] = None
    rpm: Optional[_Positive] = None
    retry_after: Optional[_Positive] = None
    key_variable: Optional[str] = None


class _FleetFile(Struct, frozen=True, forbid_unknown_fields=True):
    server: Annotated[list[FleetServer], Meta(min_length=1)]
    model: str = ""
    recorded_as: str = ""


@dataclass(frozen=True)
class FleetSpec:
    """A fleet as it is named.

    Attributes:
        spec: What names it, without logins.
        servers: Its servers.
        model: The name of the model; "" for the first that a server lists.
        recorded_as: What lineage calls the model; "" for what it calls the model of the first server alone.
    """

    spec: str
    servers: tuple[FleetServer, ...]
    model: str = ""
    recorded_as: str = ""


def is_fleet(spec: str) -> bool:
    """Return whether a model's spec names a fleet."""
    return spec.endswith(ENDING) or (spec.startswith(("http://", "https://")) and bool(_BETWEEN.search(spec)))


def fleet_spec(spec: str) -> FleetSpec:
    """Return the fleet that a model's spec names.

    Raises:
        UsageError: It names two models, or a server twice.
        EexpError: The file cannot be read.
        InputError: The file describes no fleet; the error names the first place that is wrong.
    """
    if spec.endswith(ENDING):
        return _read(spec)
    addresses, names = zip(*(one.partition("#")[::2] for one in _BETWEEN.split(spec)))
    different = list(dict.fromkeys(filter(None, names)))
    if len(different) > 1:
        raise UsageError(f"one fleet serves one model, not both {different[0]!r} and {different[1]!r}")
    servers = tuple(FleetServer(url) for url in addresses)
    shown = [_shown(address) for address in addresses]
    if (twice := _repeated(shown)) is not None:
        raise UsageError(f"{shown[twice]}: given twice")
    return FleetSpec(", ".join(shown), servers, "".join(different))


def _read(path: str) -> FleetSpec:
    file = read_structure(path, _FleetFile)
    try:
        _check(file)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    return FleetSpec(path, tuple(file.server), file.model, _shown(file.recorded_as))


def _check(file: _FleetFile) -> None:
    """Raise InputError for a server whose address or key cannot be used."""
    for i, server in enumerate(file.server):
        if "#" in server.url:
            raise InputError("holds a #; the name of the model is `model`, once for all servers", f"$.server[{i}].url")
        if not server.url.startswith(("http://", "https://")):
            raise InputError("not an address such as http://HOST:PORT/v1", f"$.server[{i}].url")
        variable = server.key_variable
        if variable is None:
            continue
        place = f"$.server[{i}].key_variable"
        if variable not in KEY_VARIABLES and not re.fullmatch(f"{KEY_PREFIX}\\w+", variable):
            raise InputError(
                f"expected {', '.join(KEY_VARIABLES)} or a name that begins with {KEY_PREFIX}, the variable that holds "
                f"the key",
                place,
            )
        if not os.environ.get(variable, "").strip():
            raise InputError(f"{variable} is not set", place)
    urls, names = [_shown(server.url) for server in file.server], [server.name for server in file.server]
    for what, values in (("url", urls), ("name", names)):
        if (twice := _repeated(values)) is not None:
            raise InputError("given twice", f"$.server[{twice}].{what}")


def _repeated(values: Sequence[str]) -> int | None:
    """Return the index of the first value that another one before it equals; None without one. Empty ones are none."""
    return next((i for i, value in enumerate(values) if value and value in values[:i]), None)


def _shown(url: str) -> str:
    """Return an address without the secrets in it."""
    return re.sub(r"//.*@", "//", url.rstrip("/"))
