"""The site is built without a warning, has every public name on its API pages, and asks nothing of other hosts."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="needs MkDocs and its theme (pip install 'seqdsd[docs]')")
pytest.importorskip("mkdocstrings", reason="needs mkdocstrings (pip install 'seqdsd[docs]')")

ROOT = Path(__file__).parents[1]
API_PAGES = sorted(path.stem for path in (ROOT / "docs" / "api").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", API_PAGES)
def test_every_public_name_is_described(site, name):
    page = (site / "docs" / "api" / f"{name}.html").read_text(encoding="utf-8")
    described = {found.split(".")[-1] for found in re.findall(r'<h\d id="(seqdsd\.[\w.]+)"', page)}
    missing = set(importlib.import_module(f"seqdsd.{name}").__all__) - described
    assert not missing


def test_pages_ask_nothing_of_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for path in pages:
        asked = re.findall(
            r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', path.read_text("utf-8")
        )
        assert not asked, path.name


def test_links_lead_where_they_do_in_the_repository(site):
    assert 'href="docs/comparing.html"' in (site / "index.html").read_text(encoding="utf-8")
    log = (site / "docs" / "experiments.html").read_text(encoding="utf-8")
    assert 'href="../recipes/an4/RESULTS.html"' in log
    results = (site / "recipes" / "an4" / "RESULTS.html").read_text(encoding="utf-8")
    assert "records/compare-ds1" in results  # its text; the records are not on the site
    assert 'href="records' not in results
