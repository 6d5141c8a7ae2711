"""The example of a plain loop runs as it is."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_learns_by_dsd_and_by_its_control():
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/plain_loop.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    zeros = [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) weights are 0", done.stdout)]
    pruned = sum(count // 2 for count in (16 * 32 * 9, 512 * 64, 64 * 10))  # but the first convolution
    # What no digit's ink reaches has no gradient, and stays at 0 in the redense phase.
    assert zeros[:2] == [0, pruned] and zeros[2] < pruned // 2
    assert zeros[3:] == [0, 0, 0]  # the control
    errors = [float(found) for found in re.findall(r"([\d.]+)% of 500 test digits wrong", done.stdout)]
    assert len(errors) == 2 and max(errors) < 12
