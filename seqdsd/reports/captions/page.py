"""``seqdsd compare-captions``: one HTML page with every phase's captions, as the paper's Figure 3 and appendix B.

The page is one file and loads nothing from anywhere; its policy forbids the browser to. Leaves out training curves
and comparisons between runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from seqdsd.printable import printable
from seqdsd.records import RunFolder, write_atomically
from seqdsd.reports.captions.changes import (
    CaptionRun,
    ImageCaptions,
    Record,
    both_ends,
    in_order,
    read_run_captions,
)
from seqdsd.reports.captions.terminal import GAP, compare_in_terminal
from seqdsd.reports.page.media import data_uri, thumbnail
from seqdsd.reports.page.rendering import asset, file_size, inline, render
from seqdsd.reports.phase_table import learning_rate, phase_title
from seqdsd.reports.runs.reading import read_origin

DEFAULT_LIMIT = 200

_BIN_WIDTH = 10
_BLEU_KINDS = {"bleu": "BLEU", "neuraltalk_bleu": "NeuralTalk’s BLEU"}
_NONE = "-"


@dataclass(frozen=True)
class Picture:
    """An image as the page holds it: an address, or the reason why there is none; size in pixels where known."""

    src: str = ""
    problem: str = ""
    size: tuple[int, int] | None = None


_OUTSIDE = Picture(problem="image lies outside the corpus’ folder")


@dataclass(frozen=True)
class Bin:
    """How many images gained about so much; ``trend`` is that of all of them."""

    label: str
    trend: str
    count: int


@dataclass(frozen=True)
class ScoreTable:
    """Cells of the corpus scores: kinds of BLEU, each four columns, then sparsity, epochs and learning rate."""

    kinds: list[str]
    phases: list[tuple[str, list[str]]]
    improvements: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Page:
    """The page and what it shows.

    Attributes:
        html: The page.
        num_shown: Images on it.
        num_missing: Of these, images without a picture.
        num_outside: Of these, images whose pictures lie outside their folder.
        folder: Where the pictures lie; None where the run does not say.
    """

    html: str
    num_shown: int
    num_missing: int
    num_outside: int = 0
    folder: Path | None = None


def caption_page(
    run: RunFolder,
    *,
    split: str = "test",
    limit: int | None = DEFAULT_LIMIT,
    images: Path | None = None,
    link: bool = False,
) -> Page:
    """Write the captions of a run's phases as one HTML page.

    Args:
        run: Folder of a captioning run.
        split: ``dev``, or one of its test sets.
        limit: Number of images, half of the largest gains and half of the largest losses; None shows all.
        images: Folder of the images; by default ``images.jsonl`` in the run's folder says where they lie.
        link: Link the images by file address: a small page, for this machine only.

    Raises:
        ValueError: If the limit is below 1, or the run cannot be compared (see ``read_run_captions``).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the number of images on the page must be at least 1, got {limit}")
    captions = read_run_captions(run, split=split, images=images)
    shown = in_order(captions.images, "gain") if limit is None else both_ends(captions.images, limit)
    cards = [
        (image, _OUTSIDE if image.id in captions.outside else _picture(image.image, link=link))
        for image in shown
    ]
    html = _render(captions, cards, read_origin(run))
    pictures = [picture for _, picture in cards]
    num_missing = sum(bool(picture.problem) for picture in pictures)
    return Page(html, len(cards), num_missing, pictures.count(_OUTSIDE), captions.picture_folder)


def gain_bins(images: Sequence[ImageCaptions]) -> list[Bin]:
    """Count images by gain, in steps of 10 points of sentence BLEU; those that stay the same have their own bin."""
    steps = [_step(image) for image in images]
    reach = max((abs(step) for step in steps), default=0)
    return [_bin(step, steps.count(step)) for step in range(-reach, reach + 1)]


def _step(image: ImageCaptions) -> int:
    """Which bin: 1 for a gain of up to 10 points, -2 for a loss of 10 to 20, 0 for none."""
    if image.trend == "same":
        return 0
    # Rounded, since 100 may come as 100.00000000000004.
    size = math.ceil(round(abs(image.gain), 6) / _BIN_WIDTH)
    return size if image.gain > 0 else -size


def _bin(step: int, count: int) -> Bin:
    if step == 0:
        return Bin("no change", "same", count)
    trend, verb = ("improved", "gained") if step > 0 else ("worse", "lost")
    size = abs(step)
    return Bin(f"{(size - 1) * _BIN_WIDTH} to {size * _BIN_WIDTH} points {verb}", trend, count)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd compare-captions``."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if asked.terminal is not None and (asked.out or asked.images or asked.link):
        parser.error("--terminal writes no page: --out, --images and --link do not go with it")
    run = RunFolder(asked.run)
    try:
        if asked.terminal is not None:
            captions = read_run_captions(run, split=asked.split)
            Console().print(compare_in_terminal(captions, asked.terminal))
            return
        page = caption_page(
            run,
            split=asked.split,
            limit=None if asked.all else asked.limit,
            images=asked.images,
            link=asked.link,
        )
        out = asked.out or run.path / "captions.html"
        write_atomically(out, page.html)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {printable(str(error))}\n")
    print(
        f"{printable(str(out))}: {page.num_shown} {asked.split} images, {file_size(out)}; open it in a browser"
    )
    if num_missing := page.num_missing - page.num_outside:
        print(f"{num_missing} pictures could not be found or read; --images FOLDER says where they are")
    if page.num_outside:
        folder = printable(str(page.folder or run.path))
        print(
            f"{page.num_outside} pictures lie outside the folder of the others ({folder}) and were left out; "
            "--images FOLDER says where they may lie"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqdsd compare-captions",
        description="Write one HTML page that shows each image with the captions of all phases, changed words marked.",
        epilog="Examples:\n"
        "  seqdsd compare-captions runs/flickr8k\n"
        "  seqdsd compare-captions runs/flickr8k --images data/flickr8k/images --all --out captions.html\n"
        "  seqdsd compare-captions runs/flickr8k --terminal 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a captioning run")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="by default captions.html in the run's folder"
    )
    parser.add_argument("--split", default="test", help="dev or a test set (default: test)")
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="images on the page, half of the largest gains and half of the largest losses (default: %(default)s)",
    )
    number.add_argument("--all", action="store_true", help="show every image")
    number.add_argument("--terminal", type=int, metavar="N", help="print N images here and write no page")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where the images lie, if they have moved"
    )
    parser.add_argument(
        "--link",
        action="store_true",
        help="link the images instead of embedding them: a small page, for here only",
    )
    return parser


def _render(
    captions: CaptionRun,
    cards: Sequence[tuple[ImageCaptions, Picture]],
    provenance: Mapping[str, Any],
) -> str:
    return render(
        "captions.html",
        styles=("page.css", "captions.css"),
        scripts=(inline(asset("captions.js")),),
        run=captions,
        cards=cards,
        provenance=provenance,
        scores=_score_table(captions),
        bins=gain_bins(captions.images),
        gap=GAP,
    )


def _score_table(captions: CaptionRun) -> ScoreTable:
    """Lay out the paper's Table 5, once more with NeuralTalk's BLEU where the records hold it."""
    scored = [record[captions.split] for record in captions.phases]
    kinds = [prefix for prefix in _BLEU_KINDS if any(f"{prefix}4" in scores for scores in scored)]
    keys = [f"{prefix}{order}" for prefix in kinds for order in (1, 2, 3, 4)]
    rows = [
        (phase_title(record), [*(_number(scores.get(key)) for key in keys), *_training(record)])
        for record, scores in zip(captions.phases, scored, strict=True)
    ]
    gains = [_gain(scored[0].get(key), scored[-1].get(key)) for key in keys]
    improvements = [
        (name, [*(gain[row] for gain in gains), *[_NONE] * 3])
        for row, name in enumerate(("Improve (abs)", "Improve (rel)"))
    ]
    return ScoreTable([_BLEU_KINDS[prefix] for prefix in kinds], rows, improvements)


def _training(record: Record) -> list[str]:
    """The table's last cells: how the phase was trained."""
    return [f"{100 * record['sparsity']:g}%", str(record["epochs"]), learning_rate(record)]


def _gain(before: float | int | None, after: float | int | None) -> tuple[str, str]:
    """Points gained, and their share of the score before."""
    if before is None or after is None:
        return _NONE, _NONE
    gain = after - before
    return f"{gain:.1f}", f"{100 * gain / before:.1f}%" if before else _NONE


def _number(score: float | int | None) -> str:
    return _NONE if score is None else f"{score:.1f}"


def _picture(path: Path | None, *, link: bool) -> Picture:
    if path is None:
        return Picture(problem="image not found")
    if link:
        return Picture(src=path.resolve().as_uri())
    try:
        data, size = thumbnail(path)
    except ValueError:
        return Picture(problem="image cannot be read")
    return Picture(src=data_uri(data, "image/jpeg"), size=size)
