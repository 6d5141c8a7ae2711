"""Captions from phase to phase in the terminal, for a few images; the whole picture is ``page``'s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from seqdsd.printable import printable
from seqdsd.reports.captions.changes import CaptionRun, ImageCaptions, Span, both_ends

GAP = "[…]"
"""Stands where words of the phase before were dropped."""

_TREND_STYLES = {"improved": "green", "worse": "red", "same": "dim"}


def compare_in_terminal(captions: CaptionRun, count: int = 5) -> RenderableType:
    """Show the images with the largest gains and losses: a reference and the caption of every phase.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images to show must be at least 1, got {count}")
    return _Comparison(captions, both_ends(captions.images, count))


@dataclass(frozen=True)
class _Comparison:
    """Changed words are underlined; where the output has no styles, ``_so marked_``."""

    captions: CaptionRun
    shown: Sequence[ImageCaptions]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        is_plain = not console.is_terminal
        yield _summary(self.captions)
        for image in self.shown:
            yield Text()
            yield _heading(image)
            yield _table(image, is_plain=is_plain)
        yield Text()
        yield _legend(is_plain=is_plain)


def _summary(captions: CaptionRun) -> Text:
    better, worse, same = (captions.count(trend) for trend in ("improved", "worse", "same"))
    first, last = printable(captions.phases[0]["name"]), printable(captions.phases[-1]["name"])
    return Text(
        f"{first} to {last}, sentence BLEU on {len(captions.images)} {captions.split} images: "
        f"{better} gained, {worse} lost, {same} stayed",
        style="bold",
    )


def _heading(image: ImageCaptions) -> Text:
    return Text.assemble(
        (f"{image.gain:+.1f}", f"bold {_TREND_STYLES[image.trend]}"), "  ", (printable(image.id), "bold")
    )


def _table(image: ImageCaptions, *, is_plain: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_row("  reference", "", Text(printable(image.refs[0]), style="italic"))
    for caption in image.captions:
        words = _marked(caption.spans, is_plain=is_plain) if caption.text else Text("(no words)", style="dim")
        table.add_row(Text(printable(f"  {caption.phase}")), f"{caption.bleu:.1f}", words)
    return table


def _marked(spans: Sequence[Span], *, is_plain: bool) -> Text:
    return Text(" ").join(_mark(span, is_plain=is_plain) for span in spans)


def _mark(span: Span, *, is_plain: bool) -> Text:
    if span.kind == "dropped":
        return Text(GAP, style="dim")
    if span.kind == "kept":
        return Text(printable(span.text))
    text = printable(span.text)
    return Text(f"_{text}_" if is_plain else text, style="bold underline")


def _legend(*, is_plain: bool) -> Text:
    marks = ("_", "_") if is_plain else ("", "")
    new = (f"{marks[0]}changed{marks[1]}", "" if is_plain else "bold underline")
    return Text.assemble(
        new,
        " against the phase before; ",
        GAP,
        " words dropped there; numbers: sentence BLEU, 0-100",
        style="dim",
    )
