"""The tutorial's notebook runs from its first cell to its last, on a run of three phases."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_every_cell_runs_and_the_plots_are_pictures(tone_run, tmp_path):
    executed = tmp_path / "tutorial.ipynb"
    code = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=120, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, sys.argv[2])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(NOTEBOOK), str(executed)],
        env={**os.environ, "SEQDSD_RUN": str(tone_run.path)},
        check=True,
    )
    cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
    pictures = [one for cell in cells for one in cell.outputs if "image/svg+xml" in one.get("data", {})]
    assert len(pictures) == 2
    heard = next("".join(out.text for out in cell.outputs) for cell in cells if "heard:" in cell.source)
    assert "said: " in heard
