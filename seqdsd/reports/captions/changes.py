"""The captions of a run's phases side by side, image by image: which words changed, and whether that helped.

Reads the records and hypotheses of a captioning run. Leaves out how it is shown: ``page`` and
``terminal`` do that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from seqdsd.kinds import CAPTIONS, kind_of_scores
from seqdsd.metrics.bleu import sentence_bleu
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.reports.runs.hypotheses import read_rows
from seqdsd.reports.runs.pictures import pictures_in, read_pictures
from seqdsd.reports.runs.reading import read_origin

Record = Mapping[str, Any]
Order = Literal["gain", "loss", "changes", "id"]

SAME_WITHIN = 0.05
"""Gains of less are shown as 0.0, and count as none."""


@dataclass(frozen=True)
class Span:
    """Neighbouring words with one fate against the phase before: kept, new here, or dropped here."""

    text: str
    kind: Literal["kept", "new", "dropped"]


@dataclass(frozen=True)
class Caption:
    """What one phase says of an image.

    Attributes:
        phase: Its name.
        text: The caption; empty where the phase says nothing.
        bleu: Sentence BLEU against the image's references, 0 to 100.
        spans: The caption cut where it departs from the phase before; all kept in the first phase.
        num_changes: Words new, replaced or dropped.
    """

    phase: str
    text: str
    bleu: float
    spans: tuple[Span, ...]
    num_changes: int


@dataclass(frozen=True)
class ImageCaptions:
    """An image, its references and the caption of every phase, in their order; ``image`` is None where no file is."""

    id: str
    image: Path | None
    refs: tuple[str, ...]
    captions: tuple[Caption, ...]

    @property
    def gain(self) -> float:
        """Sentence BLEU of the last phase minus that of the first."""
        return self.captions[-1].bleu - self.captions[0].bleu

    @property
    def trend(self) -> Literal["improved", "worse", "same"]:
        """Where the gain points, as far as its first decimal shows."""
        if abs(self.gain) < SAME_WITHIN:
            return "same"
        return "improved" if self.gain > 0 else "worse"

    @property
    def num_changes(self) -> int:
        """Words changed over all phases."""
        return sum(caption.num_changes for caption in self.captions)


@dataclass(frozen=True)
class CaptionRun:
    """All captions of a run on one split, with the records of its phases.

    Attributes:
        name: Of the run's folder.
        split: ``dev``, or a test set.
        phases: Their records.
        images: With what was said of them.
        picture_folder: Where the images lie; None where the run does not say.
        outside: Ids of images whose files lie outside that folder and the run's: they are not shown.
    """

    name: str
    split: str
    phases: tuple[Record, ...]
    images: tuple[ImageCaptions, ...]
    picture_folder: Path | None = None
    outside: frozenset[str] = frozenset()

    def count(self, trend: Literal["improved", "worse", "same"]) -> int:
        """Images whose gain points there."""
        return sum(image.trend == trend for image in self.images)


_ORDERS: dict[Order, Callable[[ImageCaptions], tuple[Any, ...]]] = {
    "gain": lambda image: (-image.gain, image.id),
    "loss": lambda image: (image.gain, image.id),
    "changes": lambda image: (-image.num_changes, image.id),
    "id": lambda image: (image.id,),
}


def in_order(images: Iterable[ImageCaptions], order: Order) -> list[ImageCaptions]:
    """Sort by largest gain, largest loss, most changed words or id; equals by id."""
    return sorted(images, key=_ORDERS[order])


def both_ends(images: Sequence[ImageCaptions], count: int) -> list[ImageCaptions]:
    """Choose ``count`` images, half of the largest gains and half of the largest losses; sorted by gain."""
    ranked = in_order(images, "gain")
    if count >= len(ranked):
        return ranked
    num_losses = count // 2
    return ranked[: count - num_losses] + ranked[len(ranked) - num_losses :]


def compare_words(before: str, now: str) -> tuple[tuple[Span, ...], int]:
    """Cut ``now`` into kept, new and dropped words against ``before``, and count the changes.

    A replaced word counts once, and only the new one makes a span: the old one stands in the caption above.
    """
    old, new = before.split(), now.split()
    spans, num_changes = list[Span](), 0
    for change, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if change == "equal":
            spans.append(Span(" ".join(new[k:m]), "kept"))
            continue
        num_changes += max(j - i, m - k)
        spans.append(
            Span(" ".join(old[i:j]), "dropped") if change == "delete" else Span(" ".join(new[k:m]), "new")
        )
    return tuple(spans), num_changes


def read_run_captions(run: RunFolder, *, split: str = "test", images: Path | None = None) -> CaptionRun:
    """Read what every phase of a captioning run said of a split's images.

    Args:
        run: The run's folder; it may still be training.
        split: ``dev``, or one of its test sets.
        images: Folder of the images; by default ``images.jsonl`` in the run's folder says where they lie.

    Raises:
        RunFolderError: If another version wrote the folder, this is no captioning run, it has no such split, or its
            hypotheses are missing, damaged or of other images than those of its first phase.
    """
    read_origin(run)  # refuses another version's folder
    phases = run.read_phases()
    if not phases:
        raise RunFolderError(
            f"{run.phases}: no phase records; wait until the run has finished its first phase"
        )
    _check_kind(run, phases, split)
    by_phase = {record["name"]: _read_hypotheses(run, record, split) for record in phases}
    first = next(iter(by_phase.values()))
    for name, rows in by_phase.items():
        _check_same_images(run.hypotheses(name, split), first, rows)
    if images is None:
        pictures = read_pictures(run, remedy="remove the file and name the images by --images")
    else:
        pictures = pictures_in(images, list(first))
    return CaptionRun(
        name=run.path.resolve().name,
        split=split,
        phases=tuple(phases),
        images=tuple(_compare(id_, by_phase, pictures.paths.get(id_)) for id_ in first),
        picture_folder=pictures.folder,
        outside=pictures.outside.intersection(first),
    )


@dataclass(frozen=True)
class _Row:
    refs: tuple[str, ...]
    hyp: str


def _compare(id_: str, by_phase: Mapping[str, Mapping[str, _Row]], image: Path | None) -> ImageCaptions:
    captions: list[Caption] = []
    for phase, rows in by_phase.items():
        row = rows[id_]
        known = next((one.bleu for one in captions if one.text == row.hyp), None)
        spans, num_changes = compare_words(captions[-1].text if captions else row.hyp, row.hyp)
        bleu = sentence_bleu(row.refs, row.hyp) if known is None else known
        captions.append(Caption(phase, row.hyp, bleu, spans, num_changes))
    return ImageCaptions(id_, image, row.refs, tuple(captions))


def _check_kind(run: RunFolder, phases: Sequence[Record], split: str) -> None:
    """Refuse a run of another kind, and a split that some phase was not scored on."""
    for record in phases:
        scored = {name: one for name, one in record.items() if isinstance(one, Mapping)}
        kinds = filter(None, map(kind_of_scores, scored.values()))
        if (kind := next(kinds, CAPTIONS)) is not CAPTIONS:
            raise RunFolderError(
                f"{run.path}: a {kind.name} run (its phases have a {kind.primary.title}); captions are compared for "
                "captioning runs only, and seqdsd table and seqdsd report show this one"
            )
        if split not in scored:
            raise RunFolderError(
                f"{run.path}: phase {record['name']!r} was not scored on {split!r}, "
                f"but on {', '.join(scored) or 'nothing'}; take one of those by --split"
            )


def _read_hypotheses(run: RunFolder, record: Record, split: str) -> dict[str, _Row]:
    rows: dict[str, _Row] = {}
    phase, num_scored = record["name"], record[split].get(CAPTIONS.counted)
    found = read_rows(run, phase, split, kind=CAPTIONS, num_scored=num_scored)
    for number, row in enumerate(found, start=1):
        if not row.refs:
            raise RunFolderError(
                f"{run.hypotheses(phase, split)}:{number}: no 'refs' that is a list of one string or more; "
                "bring the file back or train again"
            )
        rows[row.id] = _Row(tuple(" ".join(ref.split()) for ref in row.refs), " ".join(row.hyp.split()))
    return rows


def _check_same_images(path: Path, first: Mapping[str, _Row], rows: Mapping[str, _Row]) -> None:
    """Sentence BLEU can be compared only where every phase saw the same images and references."""
    remedy = "the phases belong to different runs or data: train again into a new folder"
    if odd := sorted(first.keys() ^ rows.keys()):
        which = "lacks" if odd[0] in first else "alone has"
        raise RunFolderError(f"{path}: {which} image {odd[0]!r}, unlike the first phase; {remedy}")
    if changed := next((id_ for id_, row in rows.items() if row.refs != first[id_].refs), None):
        raise RunFolderError(f"{path}: other references of {changed!r} than the first phase; {remedy}")
