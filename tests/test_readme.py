"""The README's commands are what the package does."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def marked(name: str) -> str:
    """The command between ``<!-- name -->`` and ``<!-- end -->``."""
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
    assert found, f"README.md has no {name}"
    return found[1]


def arguments_of(module: str, command: str) -> list[str]:
    """What a shell line gives to ``python -m module``."""
    words = shlex.split(command)
    return words[words.index(module) + 1 :]


SMALL_CORPUS = {"train": 60, "dev": 20, "test": 20}


@pytest.mark.slow
def test_main_command_trains_all_five_phases_on_the_embedded_corpus(tmp_path):
    # The command itself, made short by smaller settings and a smaller corpus; how long and how well it does in full is
    # measured, not tested.
    arguments = arguments_of("seqdsd.recipes.ds1", marked("main command"))
    small = ["--epochs", "1", "--hidden-size", "16", "--out", str(tmp_path / "run")]
    small += [f"--corpus.{split}-utterances={count}" for split, count in SMALL_CORPUS.items()]
    done = subprocess.run(
        [sys.executable, "-m", "seqdsd.recipes.ds1", *arguments, *small],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for phase in ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1", "Sparse Iter 2", "Dense Iter 2"):
        assert f"{phase} ends" in done.stdout
    assert "Improve (rel)" in done.stdout


def test_test_command_is_what_ci_runs():
    assert marked("test command").endswith(".venv/bin/pytest")
    assert marked("test command").startswith("python3.11 ")  # in whose place .ci/run puts $PYTHON
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_own_loop_ends_dense_after_a_sparse_phase():
    code = re.search(r"```python\n(.*?)```", README.split("## Your own loop")[1], re.DOTALL)[1]
    zeros_in_epoch = []
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv1d(2, 4, 3))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4 * 6, 3))

    def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.randn(5, 2, 8)).square().mean().backward()
        optimizer.step()
        zeros_in_epoch.append((int((model.fc.weight == 0).sum()), int((model.conv1.weight == 0).sum())))

    exec(code, {"model": model, "train_one_epoch": train_one_epoch})
    assert zeros_in_epoch == [(0, 0)] * 10 + [(36, 0)] * 5 + [(0, 0)] * 5


def test_every_file_that_the_readme_names_exists():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link
    for script in re.findall(r"data_prep/\w+\.py|recipes/[\w/]+\.toml", README):
        assert (ROOT / script).exists(), script
