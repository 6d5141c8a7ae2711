"""Make the README's pictures again: `python docs/pictures.py CAPTION_RUN` after `python -m seqdsd.recipes.neuraltalk`.

The table and the report are drawn from the records of recipes/an4; the other page is that of a captioning run. Pages
are as headless Chromium shows them. Needs the test extra and an installed Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.reports import phase_table
from seqdsd.reports.captions.page import caption_page
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.page.report import report_page
from seqdsd.reports.runs.reading import read_runs

DOCS = Path(__file__).parent
RECORDS = DOCS.parent / "recipes" / "an4" / "records"

EVERY_SEED: FloatRect = {"x": 35, "y": 500, "width": 1130, "height": 440}
"""Where the report has its first plot and table."""


def draw_table(path: Path) -> None:
    """The WER table, as a terminal prints it."""
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=88, file=nowhere)
        console.print(phase_table(RunFolder(RECORDS / "ds1-dsd-seed0").read_phases()))
    console.save_svg(str(path), title="seqdsd table recipes/an4/records/ds1-dsd-seed0")


def report_html() -> str:
    """The page that `seqdsd report` writes on AN4's comparison."""
    run_set = read_runs([RECORDS / "compare-ds1"])
    return report_page(run_set, compare_runs(run_set.runs), media_mb=0).html


def photograph(html: str, path: Path, *, clip: FloatRect | None = None) -> None:
    """The top of a page, or a part of it."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "page.html"
        page_file.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1150})
        page.goto(page_file.as_uri())
        page.screenshot(path=path, clip=clip)
        browser.close()


if __name__ == "__main__":
    draw_table(DOCS / "wer_table.svg")
    photograph(report_html(), DOCS / "report.png", clip=EVERY_SEED)
    photograph(caption_page(RunFolder(Path(sys.argv[1]))).html, DOCS / "captions.png")
