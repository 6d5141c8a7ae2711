"""``seqdsd report``: one HTML page from run folders alone, and their numbers for other programs.

The page is one file and loads nothing from anywhere; its policy forbids the browser to.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from seqdsd.printable import printable
from seqdsd.records import write_atomically
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.numbers import to_csv, to_json, to_latex, to_markdown
from seqdsd.reports.page.rendering import file_size
from seqdsd.reports.page.report import MAX_PAGE_BYTES, ReportPage, report_page
from seqdsd.reports.retraining.study import RetrainingStudy, retraining_studies
from seqdsd.reports.runs.reading import RunSet, read_runs

_WRITERS: dict[str, Callable[[RunSet, Sequence[Comparison], Sequence[RetrainingStudy]], str]] = {
    "json": to_json,
    "csv": to_csv,
    "latex": to_latex,
    "markdown": to_markdown,
}
_STDOUT = Path("-")


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd report``."""
    parser = _parser()
    asked = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        with console.status("reading the runs") as status:
            run_set = read_runs(asked.runs)
            for refusal in run_set.refused:
                console.print(
                    f"refused: {printable(refusal.message)}", style="yellow", markup=False, highlight=False
                )
            if not run_set.runs:
                raise ValueError("none of the runs can be reported")
            studies, others = retraining_studies(run_set.runs)
            comparisons = compare_runs(others)
            page = report_page(
                run_set,
                comparisons,
                studies=studies,
                split=asked.split,
                media_mb=asked.media_mb,
                on_step=lambda step: status.update(step),
            )
            out = asked.out or default_out(asked.runs)
            write_atomically(out, page.html)
            status.update("writing the numbers")
            _write_numbers(asked, run_set, comparisons, studies)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {printable(str(error))}\n")
    print(_done(out, page), file=sys.stderr if _uses_stdout(asked) else sys.stdout)


def default_out(paths: Sequence[Path]) -> Path:
    """``report.html`` in the only folder given, or in the folder above them all."""
    folders = [path.resolve() for path in paths]
    return Path(os.path.commonpath(folders)) / "report.html"


def _write_numbers(
    asked: argparse.Namespace,
    run_set: RunSet,
    comparisons: Sequence[Comparison],
    studies: Sequence[RetrainingStudy],
) -> None:
    for name, written in _WRITERS.items():
        path = getattr(asked, name)
        if path is None:
            continue
        text = written(run_set, comparisons, studies)
        if path == _STDOUT:
            print(text, end="")
        else:
            write_atomically(path, text)


def _uses_stdout(asked: argparse.Namespace) -> bool:
    return any(getattr(asked, name) == _STDOUT for name in _WRITERS)


def _done(out: Path, page: ReportPage) -> str:
    runs = f"{page.num_runs} run{'s' if page.num_runs != 1 else ''}"
    media = f", {page.num_embedded} recordings or pictures embedded" if page.num_embedded else ""
    left = f", {page.num_outside} left out that lie outside the corpus' folder" if page.num_outside else ""
    size = f"{file_size(out)}; open it in a browser"
    return f"{printable(str(out))}: {runs}, {page.num_items} utterances or images{media}{left}, {size}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqdsd report",
        description="Write one HTML page on runs: scores and their statistics, curves, weights, what every phase said.",
        epilog="Examples:\n"
        "  seqdsd report runs/an4-ds1\n"
        "  seqdsd report runs/an4-comparison --media-mb 20 --out report.html\n"
        "  seqdsd report runs/an4-comparison runs/flickr8k --json numbers.json --latex tables.tex\n"
        "Where a run's folder holds words.ctm (seqdsd transcribe --timestamps ctm), spectrograms show its words.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run's folder, or a folder above several: a comparison, or a study of seqdsd retrain",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; by default report.html in the folder given, or in the one above them all",
    )
    parser.add_argument("--split", metavar="NAME", help="whose utterances to show: dev or a test set")
    parser.add_argument(
        "--media-mb",
        type=float,
        metavar="N",
        help="megabytes of audio and images to embed, of what changes most; 0 for none (default: until the page has "
        f"{MAX_PAGE_BYTES / 1e6:g} MB)",
    )
    for name, what in (
        ("json", "all numbers"),
        ("csv", "the scores and what training took, a row a number"),
        ("latex", "every table, for booktabs"),
        ("markdown", "each comparison's and study's sentences and tables"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"also write {what}; - for standard output"
        )
    return parser
