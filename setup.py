"""Make the manual pages before a build, so that the wheel has those of its own help; the rest is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # pip names its packages there
subprocess.run([sys.executable, ROOT / "man" / "build.py"], check=True, env={**os.environ, "PYTHONPATH": path})
setup()
