"""Make the README's pictures again: `python docs/pictures.py CAPTION_RUN` after `python -m seqdsd.recipes.neuraltalk`.

The table is drawn from the records of recipes/an4; the page is that of a captioning run, as headless Chromium shows it.
Needs the test extra and an installed Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.reports import phase_table
from seqdsd.reports.captions.page import caption_page

DOCS = Path(__file__).parent
RECORDS = DOCS.parent / "recipes" / "an4" / "records" / "ds1-dsd-seed0"


def draw_table(path: Path) -> None:
    """The WER table, as a terminal prints it."""
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=88, file=nowhere)
        console.print(phase_table(RunFolder(RECORDS).read_phases()))
    console.save_svg(str(path), title="seqdsd table recipes/an4/records/ds1-dsd-seed0")


def photograph_page(run: Path, path: Path) -> None:
    """The top of the page that `seqdsd compare-captions RUN` writes."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "captions.html"
        page_file.write_text(caption_page(RunFolder(run)).html, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1150})
        page.goto(page_file.as_uri())
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    draw_table(DOCS / "wer_table.svg")
    photograph_page(Path(sys.argv[1]), DOCS / "captions.png")
