"""Utterances of a manifest as batches: read one at a time when needed, never held, so memory is the batch's alone."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from seqdsd.audio import Waveform, pitch_shift, read_audio, read_segment, speed_perturb, time_stretch
from seqdsd.data.batch import BadExample, SpeechBatch, SpeechExample, collate
from seqdsd.data.manifest import Manifest, Utterance
from seqdsd.data.shard_bytes import ServerError, read_member
from seqdsd.data.splits import find_splits, read_split
from seqdsd.printable import printable
from seqdsd.text import Tokenizer

OnBadData = Literal["error", "skip"]

log = logging.getLogger(__name__)

LONGEST_ALONE_SECONDS = 300.0
"""An utterance that is longer than a batch may be is one by itself, up to this length."""


class BadDataError(ValueError):
    """Data that cannot be used; the message names the manifest line and a remedy."""


@dataclass(frozen=True)
class Corpus:
    """The manifests of one corpus: what is trained on, what chooses, what judges.

    ``test`` maps a name (``test``, or ``test_eval92`` for ``test_eval92.jsonl``) to a manifest; it is empty where the
    test sets were not to be read.
    """

    train: Manifest
    dev: Manifest
    test: dict[str, Manifest]


def read_corpus(folder: Path, *, on_bad_data: OnBadData = "error", with_test: bool = True) -> Corpus:
    """Read the splits train, dev and test (or several test_NAME) of a folder, in any format of ``find_splits``.

    Args:
        folder: Of the manifests.
        on_bad_data: "error" raises for a line that cannot be used, "skip" leaves it out.
        with_test: Without it no test set is opened, and none need be there.

    Raises:
        BadDataError: If a split is missing.
        ManifestError: If a line cannot be used and ``on_bad_data`` is "error".
    """
    splits = find_splits(folder)
    tests = [name for name in splits if name == "test" or name.startswith("test_")] if with_test else []
    for name in ("train", "dev"):
        if name not in splits:
            raise BadDataError(
                f"{folder / name}.jsonl: no such manifest; --data takes a folder with train.jsonl, dev.jsonl and "
                "test.jsonl (scripts under data_prep/ write them, from_csv.py from a table), with Lhotse's cuts "
                "(cuts_train.jsonl.gz …), or with Kaldi's data folders or seqdsd shard's (train/, dev/, test/)"
            )
    if with_test and not tests:
        raise BadDataError(f"{folder}: neither test.jsonl nor test_NAME.jsonl is there")
    return Corpus(
        train=read_split(splits["train"], on_bad_data=on_bad_data),
        dev=read_split(splits["dev"], on_bad_data=on_bad_data),
        test={name: read_split(splits[name], on_bad_data=on_bad_data) for name in tests},
    )


def check_transcripts(
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    output_frames: Callable[[float], int],
    longest_seconds: float = math.inf,
    on_bad_data: OnBadData = "error",
) -> Manifest:
    """Keep the utterances that CTC can learn from: inside the alphabet, not longer than the network can emit.

    Args:
        manifest: What to check.
        tokenizer: Raises ``ValueError`` for a character outside its alphabet.
        output_frames: Output frames for a duration in seconds; CTC needs one a token and one more between equal ones.
        longest_seconds: For longer utterances no batch is made.
        on_bad_data: "error" raises for the first; "skip" leaves them out and adds their messages to ``skipped``.

    Raises:
        BadDataError: Naming manifest line, utterance and remedy; also when nothing is left.
    """
    good: list[Utterance] = []
    skipped = list(manifest.skipped)
    for utterance in manifest.utterances:
        problem = _problem(utterance, tokenizer, output_frames, longest_seconds)
        if problem is None:
            good.append(utterance)
        elif on_bad_data == "error":
            raise BadDataError(f"{problem} (or --on-bad-data skip)")
        else:
            skipped.append(problem)
            log.warning("skipped: %s", problem)
    if not good:
        raise BadDataError(
            f"{manifest.path}: no utterance is left; the first was skipped because {skipped[0]}"
        )
    return replace(manifest, utterances=good, skipped=skipped)


def _problem(
    utterance: Utterance, tokenizer: Tokenizer, output_frames: Callable[[float], int], longest_seconds: float
) -> str | None:
    where = f"{utterance.source}: utterance {utterance.id}"
    try:
        tokens = tokenizer.encode(utterance.text)
    except ValueError as error:
        return f"{where}: {error}"
    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    frames = output_frames(utterance.duration_seconds)
    if needed > frames:
        return (
            f"{where}: CTC cannot emit its {len(tokens)} tokens (it needs {needed} frames) in {frames} output frames "
            f"of {utterance.duration_seconds} s; is the transcript another recording's?"
        )
    if utterance.duration_seconds > longest_seconds:
        return (
            f"{where}: lasts {utterance.duration_seconds} s, longer than the {longest_seconds:g} s that a batch may be"
            "; split the recording, or raise the budget (max_batch_seconds)"
        )
    return None


class SpeechDataset(Dataset[SpeechExample | BadExample]):
    """Utterances read on access, from disk or a web server; resampled; varied in speed, tempo and pitch if asked."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        *,
        sample_rate_hz: int = 16000,
        min_samples: int = 1,
        speed_factors: Sequence[float] = (1.0,),
        stretch: float = 0.0,
        pitch_semitones: float = 0.0,
        seed: tuple[int, int] = (0, 0),
    ) -> None:
        """Hold the list; nothing is read yet.

        Args:
            utterances: In the order of the indices.
            tokenizer: Turns transcripts into ids.
            sample_rate_hz: Of the samples given out.
            min_samples: Shorter recordings are bad data (one feature window).
            speed_factors: One is drawn for each utterance, decided by ``seed`` and the index alone.
            stretch: Each is played up to this share faster or slower at the same pitch, decided likewise.
            pitch_semitones: Each is shifted up or down by at most so many, decided likewise.
            seed: (run seed, epoch).
        """
        self._utterances = utterances
        self._tokenizer = tokenizer
        self._sample_rate_hz = sample_rate_hz
        self._min_samples = min_samples
        self._speed_factors = speed_factors
        self._stretch = stretch
        self._pitch_semitones = pitch_semitones
        self._seed = seed

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: int) -> SpeechExample | BadExample:
        """Read utterance ``index``. What cannot be read comes back as ``BadExample``, not as an exception."""
        utterance = self._utterances[index]
        try:
            waveform = self._read(utterance)
            samples = self._varied(waveform.samples, index)
            if len(samples) < self._min_samples:
                raise ValueError(
                    f"{utterance.audio_name}: {len(samples)} samples are less than one feature window"
                )
            tokens = self._tokenizer.encode(utterance.text)
        except (ValueError, OSError) as error:  # OSError: no permission, a network disk that is gone
            message = printable(f"{utterance.source}: utterance {utterance.id}: {error}")
            return BadExample(utterance.id, message, is_outage=isinstance(error, ServerError))
        return SpeechExample(utterance.id, samples, tokens, utterance.text, waveform.original_sample_rate_hz)

    def __getitems__(self, indices: Sequence[int]) -> list[SpeechExample | BadExample]:
        """A batch for the data loader; it ends at an outage, lest the other utterances wait for the server as well."""
        examples: list[SpeechExample | BadExample] = []
        for index in indices:
            examples.append(self[index])
            if isinstance(examples[-1], BadExample) and examples[-1].is_outage:
                break
        return examples

    def _read(self, utterance: Utterance) -> Waveform:
        if utterance.start_seconds is None:
            return read_audio(
                utterance.audio_path if utterance.member is None else read_member(utterance.member),
                sample_rate_hz=self._sample_rate_hz,
                expected_seconds=utterance.duration_seconds,
            )
        return read_segment(
            utterance.audio_path,
            start_seconds=utterance.start_seconds,
            seconds=utterance.duration_seconds,
            sample_rate_hz=self._sample_rate_hz,
        )

    def _varied(self, samples: torch.Tensor, index: int) -> torch.Tensor:
        generator = np.random.default_rng((*self._seed, index))
        factor = float(generator.choice(self._speed_factors))
        if factor != 1.0:
            samples = speed_perturb(samples, factor, self._sample_rate_hz)
        tempo, semitones = (generator.uniform(-most, most) for most in (self._stretch, self._pitch_semitones))
        return pitch_shift(time_stretch(samples, 1 + tempo), semitones, self._sample_rate_hz)


def load_batches(
    dataset: SpeechDataset, batches: Iterable[Sequence[int]], *, num_workers: int, pin_memory: bool = False
) -> Iterator[SpeechBatch]:
    """Utterances by their indices, batch by batch, read ahead by ``num_workers`` processes (0: here, when needed)."""
    indices = [list(batch) for batch in batches]
    loader = DataLoader(
        dataset,
        batch_sampler=indices,
        collate_fn=collate,
        num_workers=min(num_workers, len(indices)),
        pin_memory=pin_memory,
        generator=torch.Generator(),  # of its own: drawing from the global one would change dropout on resume
        worker_init_fn=leave_stopping_to_the_trainer,
    )
    yield from loader


def leave_stopping_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach workers too; their death would end training before it can save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
