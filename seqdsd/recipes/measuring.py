"""What a corpus is like, as far as settings depend on it: hours, lengths, transcripts, sample rates.

Leaves out looking into the audio: lengths are the manifest's, sample rates those of a few headers.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

from seqdsd.audio import FFMPEG_SUFFIXES, AudioError, audio_rate_hz
from seqdsd.data import LONGEST_ALONE_SECONDS, Corpus, Utterance
from seqdsd.data.shard_bytes import read_member

HEADERS_READ = 50


@dataclass(frozen=True)
class CorpusMeasure:
    """What the rule knows of a corpus; all but the last field is of the training utterances."""

    hours: float
    """Of audio."""
    utterances: int
    mean_seconds: float
    longest_seconds: float
    lengths: tuple[tuple[float, int], ...]
    """Seconds, rounded up to a tenth, and how many utterances have them; ascending."""
    num_to_cut: int
    """Utterances of more than ``LONGEST_ALONE_SECONDS``, for which no batch is made."""
    characters_a_second: float
    """Of the transcripts, spaces included."""
    speakers: int | None
    """None where the manifest does not say."""
    sample_rates_hz: tuple[int, ...]
    """Of a few recordings, the lowest first; none where their headers cannot be read cheaply."""
    all_rates_known: bool
    """Whether the headers of all of these that can be read could be read cheaply: others may have any."""
    alphabet: str
    """Every character of the transcripts once, in the order of Unicode."""
    num_decomposed: int
    """Transcripts that Unicode's NFC form would write otherwise: accents apart from their letters."""
    dev_utterances: int

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:,} Hz" for rate in self.sample_rates_hz)
        if not self.all_rates_known:
            rates = f"{rates} and others unknown" if rates else "unknown"
        speakers = "" if self.speakers is None else f", {counted(self.speakers, 'speaker')}"
        lengths = f"mean {self.mean_seconds:.3g} s, longest {self.longest_seconds:.3g} s"
        return (
            f"{duration(self.hours)} of audio in {counted(self.utterances, 'utterance')} ({lengths}){speakers}, "
            f"{self.characters_a_second:.2g} characters a second, sample rate {rates or 'unknown'}; "
            f"dev has {counted(self.dev_utterances, 'utterance')}"
        )


def measure(corpus: Corpus) -> CorpusMeasure:
    """Measure a corpus, in a fraction of the time that it took to read its manifests."""
    train = corpus.train.utterances
    seconds = [one.duration_seconds for one in train]
    total = math.fsum(seconds)
    speakers = {one.speaker for one in train} - {None}
    rates_hz, all_known = _sample_rates(train)
    return CorpusMeasure(
        hours=total / 3600,
        utterances=len(train),
        mean_seconds=fmean(seconds),
        longest_seconds=max(seconds),
        lengths=tuple(sorted(Counter(math.ceil(10 * one) / 10 for one in seconds).items())),
        num_to_cut=sum(one > LONGEST_ALONE_SECONDS for one in seconds),
        characters_a_second=sum(len(one.text) for one in train) / total,
        speakers=len(speakers) or None,
        sample_rates_hz=rates_hz,
        all_rates_known=all_known,
        alphabet="".join(sorted(set("".join(one.text for one in train)))),
        num_decomposed=sum(not unicodedata.is_normalized("NFC", one.text) for one in train),
        dev_utterances=len(corpus.dev.utterances),
    )


def _sample_rates(utterances: Sequence[Utterance]) -> tuple[tuple[int, ...], bool]:
    """Of recordings all over the manifest, and whether all are known; what is damaged, training will name."""
    count = min(HEADERS_READ, len(utterances))
    rates = set[int | None]()
    for utterance in (utterances[index * len(utterances) // count] for index in range(count)):
        with suppress(AudioError, OSError):
            rates.add(_sample_rate(utterance))
    return tuple(sorted(rate for rate in rates if rate is not None)), None not in rates


def _sample_rate(utterance: Utterance) -> int | None:
    """None where the header is not to be had without a request to a server or a run of ffmpeg."""
    if utterance.member is not None:
        is_remote = utterance.member.shard.location.startswith(("http://", "https://"))
        return None if is_remote else audio_rate_hz(read_member(utterance.member))
    path = utterance.audio_path
    return None if path.lower().endswith(FFMPEG_SUFFIXES) else audio_rate_hz(path)


def duration(hours: float | int) -> str:
    """In the unit that suits it."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.4g} h"


def counted(number: int, what: str) -> str:
    """A number of things, the word in its form."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
