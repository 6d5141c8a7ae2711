"""What every phase of some runs says of each utterance or image, scored one by one, in the form that a page draws.

Utterances are aligned with their reference word by word; captions are scored by sentence BLEU, and their words compared
with the phase before; classes are right or wrong. Equal texts are held once. Leaves out reading the files and drawing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from seqdsd.kinds import CAPTIONS, CLASSIFICATION, SPEECH, Kind
from seqdsd.metrics.bleu import sentence_bleu
from seqdsd.reports.captions.changes import Span, compare_words
from seqdsd.reports.runs.hypotheses import Hypothesis

_WORDS = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])
_OPS = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}
_MARKS = {"kept": "=", "new": "+", "dropped": "-"}


@dataclass(frozen=True)
class Text:
    """One text that at least one phase says.

    Attributes:
        hyp: Its words, single spaces between them; of a class, its name as it is.
        ops: What became of each word against the reference, a letter each: ``=`` right, ``S`` substituted (one word
            of both), ``D`` deleted (of the reference), ``I`` inserted (of the text). Empty for captions and classes.
        score: Errors (of a class, 0 or 1), or sentence BLEU from 0 to 100; None where there is no reference.
    """

    hyp: str
    ops: str
    score: float | int | None


@dataclass(frozen=True)
class Item:
    """An utterance or image.

    Attributes:
        id: Its name in the manifest.
        refs: One transcript or class, or any number of captions.
        texts: All that is said of it, each once.
        said: Which of these each column says.
    """

    id: str
    refs: tuple[str, ...]
    texts: tuple[Text, ...]
    said: tuple[int, ...]

    def score(self, column: int) -> float | int | None:
        """What a column's text scores."""
        return self.texts[self.said[column]].score

    def change(self, views: Iterable[Sequence[int]]) -> float | int:
        """The largest difference between the first and the last column of a view, better or worse."""
        pairs = ((self.score(view[0]), self.score(view[-1])) for view in views)
        return max(
            (abs(last - first) for first, last in pairs if first is not None and last is not None), default=0
        )


def make_items(columns: Sequence[Sequence[Hypothesis]], *, kind: Kind) -> list[Item]:
    """Score what some phases say of the same utterances or images.

    Args:
        columns: What each phase says; the references are those of the first.
        kind: Decides how a text is scored.

    Raises:
        ValueError: If a column has other ids than the first.
    """
    tidy = str if kind is CLASSIFICATION else _spaced  # classes may differ in their spaces alone
    texts = [{row.id: tidy(row.hyp) for row in rows} for rows in columns]
    for number, column in enumerate(texts):
        if odd := sorted(column.keys() ^ texts[0].keys()):
            raise ValueError(
                f"column {number} and the first differ in {odd[0]!r}: all must be of the same items"
            )
    refs = {row.id: tuple(map(tidy, row.refs)) for row in columns[0]} if columns else {}
    distinct = {id_: list(dict.fromkeys(column[id_] for column in texts)) for id_ in refs}
    pairs = [(refs[id_], hyp) for id_, hyps in distinct.items() for hyp in hyps]
    scored = iter(_SCORED[kind](pairs))
    return [
        Item(
            id_,
            refs[id_],
            tuple(next(scored) for _ in hyps),
            tuple(hyps.index(column[id_]) for column in texts),
        )
        for id_, hyps in distinct.items()
    ]


def most_changed(items: Iterable[Item], views: Sequence[Sequence[int]]) -> list[Item]:
    """Sort by the largest change between a view's first and last column, then by how much is said, then by id."""
    return sorted(items, key=lambda item: (-item.change(views), -len(item.texts), item.id))


def caption_marks(item: Item, view: Sequence[int]) -> list[str]:
    """For each column of a view its text's words against the column before: ``=`` kept, ``+`` new, ``-`` a gap."""
    hyps = [item.texts[item.said[column]].hyp for column in view]
    return [
        _marks(compare_words(before, now)[0]) for before, now in zip([hyps[0], *hyps], hyps, strict=False)
    ]


def as_json(item: Item, **more: Any) -> dict[str, Any]:
    """An item as the page's script reads it."""
    texts = [
        [text.hyp, text.ops, text.score if text.score is None else round(text.score, 1)]
        for text in item.texts
    ]
    return {"id": item.id, "refs": item.refs, "texts": texts, "said": item.said, **more}


def fitting(items: Iterable[Mapping[str, Any]], max_bytes: int) -> tuple[int, int]:
    """How many of the first items stay below so many bytes together, as JSON, and how many bytes those are."""
    count = total = 0
    for item in items:
        size = len(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()) + 1
        if total + size > max_bytes:
            break
        count, total = count + 1, total + size
    return count, total


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _align(pairs: Sequence[tuple[tuple[str, ...], str]]) -> list[Text]:
    """The alignments by which WER is counted, of a reference and a hypothesis each."""
    refs_known, hyps = [refs[0] for refs, _ in pairs if refs], [hyp for refs, hyp in pairs if refs]
    chunks = iter(jiwer.process_words(refs_known, hyps, _WORDS, _WORDS).alignments if refs_known else ())
    return [_aligned(hyp, next(chunks)) if refs else Text(hyp, "", None) for refs, hyp in pairs]


def _aligned(hyp: str, chunks: Sequence[Any]) -> Text:
    ops = "".join(_OPS[chunk.type] * _length(chunk) for chunk in chunks)
    return Text(hyp, ops, len(ops) - ops.count("="))


def _length(chunk: Any) -> int:
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def _captions(pairs: Sequence[tuple[tuple[str, ...], str]]) -> list[Text]:
    return [Text(hyp, "", sentence_bleu(refs, hyp) if refs else None) for refs, hyp in pairs]


def _classes(pairs: Sequence[tuple[tuple[str, ...], str]]) -> list[Text]:
    return [Text(hyp, "", int(hyp not in refs) if refs else None) for refs, hyp in pairs]


_SCORED: Mapping[Kind, Callable[[Sequence[tuple[tuple[str, ...], str]]], list[Text]]] = {
    SPEECH: _align,
    CAPTIONS: _captions,
    CLASSIFICATION: _classes,
}


def _marks(spans: Sequence[Span]) -> str:
    """A letter a word; but one for a gap, however many words were there."""
    lengths = (1 if span.kind == "dropped" else len(span.text.split()) for span in spans)
    return "".join(_MARKS[span.kind] * length for span, length in zip(spans, lengths, strict=True))
