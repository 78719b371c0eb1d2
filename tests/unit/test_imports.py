"""Which way imports point: the contracts of pyproject.toml, held against every module."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).parent / "lint-imports"


def test_the_contracts_are_kept():
    done = subprocess.run([LINT, "--no-cache", "--no-logo"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
