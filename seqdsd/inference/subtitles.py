"""Timed words as files that other programs read: SubRip and WebVTT subtitles, NIST's CTM."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seqdsd.tasks.alignment import TimedWord

CUE_SECONDS = 6.0
LINE_CHARACTERS = 42  # as broadcasters have it
PAUSE_SECONDS = 0.8
"""A longer pause between two words ends a cue."""


@dataclass(frozen=True)
class Cue:
    """Words that are shown together, on two lines at most."""

    start_seconds: float
    end_seconds: float
    text: str


def to_cues(words: Iterable[TimedWord]) -> Iterator[Cue]:
    """Words in their order as cues that can be read, each as long as its words."""
    together: list[TimedWord] = []
    for word in words:
        if together and _is_too_much(together, word):
            yield _cue(together)
            together = []
        together.append(word)
    if together:
        yield _cue(together)


def srt(words: Iterable[TimedWord]) -> str:
    """SubRip subtitles."""
    cues = enumerate(to_cues(words), start=1)
    return "\n".join(
        f"{number}\n{_clock(cue.start_seconds, ',')} --> {_clock(cue.end_seconds, ',')}\n{cue.text}\n"
        for number, cue in cues
    )


def vtt(words: Iterable[TimedWord]) -> str:
    """WebVTT subtitles."""
    cues = (
        f"\n{_clock(cue.start_seconds, '.')} --> {_clock(cue.end_seconds, '.')}\n{cue.text}\n"
        for cue in to_cues(words)
    )
    return "WEBVTT\n" + "".join(cues)


def ctm(words: Iterable[TimedWord], recording: Path) -> str:
    """NIST's CTM: recording, channel, start, duration, word and confidence, a word a line."""
    name = recording.stem.replace(" ", "_")  # columns are told apart by spaces
    return "".join(
        f"{name} 1 {word.start_seconds:.2f} {word.end_seconds - word.start_seconds:.2f} {word.word} "
        f"{word.confidence:.2f}\n"
        for word in words
    )


def _is_too_much(together: list[TimedWord], word: TimedWord) -> bool:
    lines = _lines(" ".join(one.word for one in (*together, word)))
    return (
        word.start_seconds - together[-1].end_seconds > PAUSE_SECONDS
        or word.end_seconds - together[0].start_seconds > CUE_SECONDS
        or len(lines) > 2
    )


def _cue(together: list[TimedWord]) -> Cue:
    text = "\n".join(_lines(" ".join(one.word for one in together)))
    return Cue(together[0].start_seconds, together[-1].end_seconds, text)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def _clock(seconds: float, mark: str) -> str:
    """``01:02:03,450``, with the format's mark before the milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, seconds_left = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_left:02}{mark}{milliseconds % 1000:03}"
