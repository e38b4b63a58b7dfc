"""Compile the Java classes beside this file into eexp/data/scienceworld/state.jar, with which eexp copies states.

    python recipes/scienceworld/compile.py

It needs a JDK, 11 or later. The jar holds the compiler's version, and a hash of the sources that it was made of.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
JAR = HERE.parents[1] / "eexp" / "data" / "scienceworld" / "state.jar"
SOURCES = sorted(HERE.glob("*.java"))
ORIGIN = "eexp/origin.txt"  # in the jar: the compiler, and the hash of the sources
DATE = (2026, 1, 1, 0, 0, 0)  # the same for every build, so that the same sources give the same bytes


def fingerprint() -> str:
    """Return the SHA-256 of the sources with their names."""
    digest = hashlib.sha256()
    for source in SOURCES:
        data = source.read_bytes()
        digest.update(f"{source.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def compiler() -> str:
    """Return the version of the compiler, such as "javac 17.0.15"."""
    answer = subprocess.run(["javac", "-version"], check=True, capture_output=True, text=True)
    return (answer.stdout or answer.stderr).splitlines()[-1].strip()


def compile_classes() -> dict[str, bytes]:
    """Return the compiled classes by their names in the jar, for Java 11 and later."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["javac", "--release", "11", "-nowarn", "-g:none", "-XDignore.symbol.file", "-d", directory]
        subprocess.run([*command, *map(str, SOURCES)], check=True, stderr=subprocess.DEVNULL)
        files = sorted(Path(directory).rglob("*.class"))
        return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def main() -> None:
    origin = f"{compiler()}\n{fingerprint()}\n"
    with zipfile.ZipFile(JAR, "w", zipfile.ZIP_DEFLATED) as jar:
        for name, data in {ORIGIN: origin.encode(), **compile_classes()}.items():
            jar.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED)
    print(f"{JAR}: {JAR.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
