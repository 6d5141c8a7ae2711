"""What docstrings and pages show works: docstrings' examples as printed, imports, and every flag of a command."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

from seqdsd.cli import COMMANDS

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(path for path in (ROOT / "seqdsd").rglob("*.py") if ">>> " in path.read_text("utf-8"))
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "recipes/*/RESULTS.md")
    for path in ROOT.glob(pattern)
)
OF_A_RUN = {  # commands whose --help says all of it with a run alone, by its kind
    "seqdsd.inference.evaluate": (
        "recipes/an4/records/ds1-dsd-seed0",
        "recipes/flickr8k/records/neuraltalk-dsd-seed0",
    ),
}


def blocks(language: str) -> list[tuple[str, str]]:
    """A page's path and the text of a code block in it, of all pages."""
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
    ]


def commands() -> dict[str, dict[str, set[str]]]:
    """The module behind each command that a page shows: its flags, and the pages where each stands."""
    found: dict[str, dict[str, set[str]]] = {}
    for page, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            shown = re.search(
                r"(?:^|[/ ])(?:seqdsd (?P<command>[a-z-]+)|-m (?P<module>seqdsd\.[\w.]+))(?P<rest>.*)", line
            )
            if shown is None:
                continue
            command = shown["command"]
            module = shown["module"] or COMMANDS[command].module
            # What follows " -- " is for the recipe.
            arguments = re.split(r" -- | #|[|>]", shown["rest"])[0]
            for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", arguments):
                found.setdefault(module, {}).setdefault(flag, set()).add(page)
    return found


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_docstrings_run_as_printed(path):
    torch.manual_seed(0)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples():
    assert ROOT / "seqdsd" / "sparsity" / "masks.py" in WITH_EXAMPLES


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_what_pages_import_is_there(page, code):
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize("module", commands())
def test_flags_that_pages_show_are_there(module, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for runs in [[str(ROOT / run)] for run in OF_A_RUN.get(module, ())] or [[]]:
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(module).main([*runs, "--help"])
        assert ended.value.code == 0
    known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    assert {flag: pages for flag, pages in commands()[module].items() if flag not in known} == {}
