"""The utterances or images of a report: what each phase of its runs says of them, with their recordings or pictures.

Runs that were scored on the same items share them. Leaves out how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqdsd.kinds import CAPTIONS, Kind
from seqdsd.records import RunFolderError
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.page.media import Embedded, audio_uri, embed, picture_uri
from seqdsd.reports.page.spectrograms import TimedWords, audio_duration, read_words, spectrogram_uri, words_of
from seqdsd.reports.page.utterances import Item, as_json, caption_marks, fitting, make_items, most_changed
from seqdsd.reports.runs.hypotheses import Hypothesis
from seqdsd.reports.runs.reading import Run, read_hypotheses, read_images, read_recordings

MAX_TEXT_BYTES = 2_500_000
"""Of all texts together: enough for what five seeds of four arms say of some 500 utterances of 18 words."""

MAX_SPECTROGRAMS = 60
"""Of the utterances that change most: as many as the page draws at first, some 0.4 MB."""

_ENCODE: dict[str, Callable[[Path], str]] = {"recording": audio_uri, "picture": picture_uri}


@dataclass(frozen=True)
class View:
    """Columns that are shown beside each other: the phases of a run, or the last phases of a seed's arms."""

    run: int | None
    seed: int | None
    columns: tuple[tuple[str, int], ...]
    """Their titles and numbers."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the columns."""
        return tuple(number for _, number in self.columns)


@dataclass
class _Group:
    """Runs that were scored on the same items, while they are read."""

    kind: Kind
    runs: list[int] = field(default_factory=list)
    columns: list[Sequence[Hypothesis]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)


@dataclass(frozen=True)
class _Shown:
    """A group's JSON, and the files of its items, what changes most first."""

    value: dict[str, Any]
    kind: Kind
    num_items: int
    files: tuple[tuple[str, Path], ...]
    num_outside: int
    words: dict[str, TimedWords]
    """When they were said, by id, where a run knows."""


@dataclass(frozen=True)
class Items:
    """All that a page's script needs to show items, and what the page must say of them.

    Attributes:
        shown: A group for each set of items.
        problems: Runs whose hypotheses cannot be shown, and why.
        num_embedded: Recordings and pictures among them.
    """

    shown: tuple[_Shown, ...]
    problems: tuple[str, ...]
    num_embedded: int = 0

    @property
    def num_outside(self) -> int:
        """Pictures left out since they lie outside the corpus' folder."""
        return sum(one.num_outside for one in self.shown)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """A JSON object for each set of items."""
        return [one.value for one in self.shown]

    def with_media(self, max_bytes: int) -> Items:
        """The same with recordings and pictures, of what changes most, up to ``max_bytes`` of data URIs together.

        Spectrograms take a quarter of them at most, and are not counted.
        """
        made, num_embedded = [], 0
        for one in self.shown:
            drawn = one.files[:MAX_SPECTROGRAMS] if one.kind.medium == "recording" else ()
            pictures = embed(drawn, spectrogram_uri, max_bytes=max_bytes // 4)
            max_bytes -= sum(map(len, pictures.uris.values()))
            embedded = embed(one.files, _ENCODE[one.kind.medium], max_bytes=max_bytes)
            max_bytes -= sum(map(len, embedded.uris.values()))
            num_embedded += len(embedded.uris)
            made.append(replace(one, value=_with_media(one, embedded, pictures)))
        return replace(self, shown=tuple(made), num_embedded=num_embedded)


def read_items(runs: Sequence[Run], comparisons: Sequence[Comparison], *, split: str | None) -> Items:
    """Read and score what every phase of the runs says, what changes most first; without recordings and pictures.

    Args:
        runs: They are numbered by their places.
        comparisons: Of these runs; they say which arms stand beside each other.
        split: Whose items; None takes each run's first test set, or dev where it has none.
    """
    groups, problems = _read_groups(runs, split)
    made, room = [], MAX_TEXT_BYTES
    for group in groups:
        group.views += _arm_views(group, runs, comparisons)
        shown, num_bytes = _finished(group, runs, room)
        made.append(shown)
        room -= num_bytes
    return Items(tuple(made), tuple(problems))


def chosen_split(run: Run, split: str | None) -> str:
    """The split that is shown: the one asked for, else the first test set, else dev."""
    return split or next(iter(run.test_splits), "dev")


def _read_groups(runs: Sequence[Run], split: str | None) -> tuple[list[_Group], list[str]]:
    groups: dict[Any, _Group] = {}
    problems = []
    for number, run in enumerate(runs):
        try:
            columns = _columns(run, chosen_split(run, split))
        except RunFolderError as error:
            problems.append(str(error))
            continue
        key = (run.kind.name, chosen_split(run, split), *sorted((row.id, row.refs) for row in columns[0]))
        group = groups.setdefault(key, _Group(run.kind))
        first = len(group.columns)
        titles = ((record["name"], first + place) for place, record in enumerate(run.phases))
        group.views.append(View(number, None, tuple(titles)))
        group.runs.append(number)
        group.columns += columns
    return list(groups.values()), problems


def _columns(run: Run, split: str) -> list[Sequence[Hypothesis]]:
    """What each phase says, checked to be of the same items."""
    columns: list[Sequence[Hypothesis]] = []
    for record in run.phases:
        rows = read_hypotheses(run, record["name"], split)
        if columns and (odd := sorted({row.id for row in columns[0]} ^ {row.id for row in rows})):
            path = run.folder.hypotheses(record["name"], split)
            raise RunFolderError(
                f"{path}: other items than in the first phase, {odd[0]!r} for one; bring the file back or train again"
            )
        columns.append(rows)
    return columns


def _arm_views(group: _Group, runs: Sequence[Run], comparisons: Iterable[Comparison]) -> list[View]:
    """A view for each seed of a comparison: the last phase of every arm."""
    last = {runs[view.run].folder.path: view.columns[-1][1] for view in group.views if view.run is not None}
    views = []
    for comparison in comparisons:
        for seed in comparison.seeds:
            arms = [(arm.name, arm.runs[seed].folder.path) for arm in comparison.arms if seed in arm.runs]
            columns = tuple((name, last[path]) for name, path in arms if path in last)
            if len(columns) > 1:
                views.append(View(None, seed, columns))
    return views


def _finished(group: _Group, runs: Sequence[Run], room: int) -> tuple[_Shown, int]:
    """As much of a group as there is room for, and how large it is."""
    columns = [view.numbers for view in group.views]
    ranked = most_changed(make_items(group.columns, kind=group.kind), columns)
    rows = [as_json(item, **_marks(item, group)) for item in ranked]
    count, num_bytes = fitting(rows, room)
    paths, outside = _paths(group, runs)
    value = {
        "kind": group.kind.name,
        "runs": group.runs,
        "views": [_view_as_json(view) for view in group.views],
        "items": rows[:count],
    }
    files = tuple((item.id, paths[item.id]) for item in ranked[:count] if item.id in paths)
    num_outside = sum(item.id in outside for item in ranked[:count])
    words = _words(group, runs, files)
    return _Shown(value, group.kind, len(rows), files, num_outside, words), num_bytes


def _with_media(shown: _Shown, embedded: Embedded, pictures: Embedded) -> dict[str, Any]:
    paths, rows = dict(shown.files), []
    for row in shown.value["items"]:
        more: dict[str, Any] = {}
        if (id_ := row["id"]) in embedded.uris:
            more["media"] = embedded.uris[id_]
        if id_ in pictures.uris:
            more["spectrogram"] = pictures.uris[id_]
            if id_ in shown.words:
                more |= {"words": shown.words[id_], "seconds": audio_duration(paths[id_])}
        rows.append({**row, **more})
    notes = _notes(shown, embedded)
    return {**shown.value, "items": rows, "notes": notes}


def _marks(item: Item, group: _Group) -> dict[str, Any]:
    """Captions show what changed from column to column; utterances and classes, what is wrong."""
    if group.kind is not CAPTIONS:
        return {}
    return {"marks": [caption_marks(item, view.numbers) for view in group.views]}


def _paths(group: _Group, runs: Sequence[Run]) -> tuple[dict[str, Path], set[str]]:
    """Where the group's files are, as far as they are there, by the first run that says so; and ids of those outside.

    Recordings may lie anywhere: a manifest may name any, and has no folder of its own.
    """
    found: dict[str, Path] = {}
    outside: set[str] = set()
    for number in group.runs:
        if group.kind.medium == "picture":
            pictures = read_images(runs[number])
            found = {**pictures.paths, **found}
            outside |= pictures.outside
        else:
            listed = read_recordings(runs[number])
            found = {**{id_: path for id_, path in listed.items() if path.is_file()}, **found}
    return found, outside - found.keys()


def _words(group: _Group, runs: Sequence[Run], files: Iterable[tuple[str, Path]]) -> dict[str, TimedWords]:
    """When words were said, by the first run that says so."""
    if group.kind.medium != "recording":
        return {}
    known = next(filter(None, (read_words(runs[number].folder) for number in group.runs)), {})
    return {id_: words for id_, path in files if (words := words_of(path, known))}


def _view_as_json(view: View) -> dict[str, Any]:
    return {"run": view.run, "seed": view.seed, "columns": view.columns}


def _notes(group: _Shown, embedded: Embedded) -> list[str]:
    """What is not on the page."""
    item, medium = group.kind.item, group.kind.medium
    notes = []
    shown, total = len(group.value["items"]), group.num_items
    if shown < total:
        notes.append(f"The page holds {shown:,} of {total:,} {item}s: those whose scores change most.")
    if missing := shown - len(group.files) - group.num_outside:
        verb = "has" if missing == 1 else "have"
        notes.append(f"{_counted(missing, item)} {verb} no {medium} that can be found from the run folder.")
    if group.num_outside:
        verb = "lies" if group.num_outside == 1 else "lie"
        notes.append(
            f"{_counted(group.num_outside, medium)} {verb} outside the corpus' folder, and so not on the page."
        )
    if embedded.left_out:
        number = len(embedded.left_out)
        notes.append(
            f"{_counted(len(embedded.uris), medium)} embedded, of what changes most; {number:,} left out: --media-mb "
            "gives more room."
        )
    if embedded.unreadable:
        notes.append(
            f"{_counted(len(embedded.unreadable), medium)} cannot be read, {embedded.unreadable[0]} for one."
        )
    return notes


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
