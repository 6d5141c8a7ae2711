import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_example() -> Callable[..., str]:
    """Runs an example as it is, by default with every warning an error, and gives what it prints."""

    def run(name: str, *flags: str, python_flags: Sequence[str] = ("-W", "error")) -> str:
        done = subprocess.run(
            [sys.executable, *python_flags, f"examples/{name}", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
