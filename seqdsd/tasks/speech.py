"""Speech recognition with CTC: an acoustic model with its utterances, loss, max decoding and word error rate."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqdsd.audio import LogSpectrogram, SpecAugment
from seqdsd.audio.features import (
    HIGHEST_MEL_HZ,
    LINEAR_BINS,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    Normalise,
    mel_filters,
)
from seqdsd.data import (
    LONGEST_ALONE_SECONDS,
    SILENT_PEAK,
    BadDataError,
    BucketBatchSampler,
    Corpus,
    Manifest,
    OnBadData,
    SpeechBatch,
    SpeechDataset,
    Utterance,
    check_transcripts,
    load_batches,
)
from seqdsd.engine import Evaluation, Note, Processes
from seqdsd.metrics import cer, wer
from seqdsd.metrics.wer import ErrorRate
from seqdsd.tasks.decoding import DecodingSettings, make_decoder
from seqdsd.text import Tokenizer

log = logging.getLogger(__name__)

LEAST_MELS = 24
"""At 19 to 22 bins the backward pass of DeepSpeech 2's first convolution ends the process on a CPU (torch 2.14)."""
BLANK_COLLAPSE_SHARE = 0.9
FEW_WORDS_SHARE = 0.05
USUAL_STEPS = 600
"""In which a recogniser's first words come right, where its rate is constant (AN4, the embedded corpus)."""
USUAL_EPOCHS = 3
"""The least, however many steps they have."""
USUAL_SHARE = 1 / 3
"""And the least of a phase: one that warms up over a fifth of it was at 1 % after 843 steps and ended well (AN4)."""


class AcousticModel(Protocol):
    """What ``SpeechTask`` needs of a network besides ``nn.Module``."""

    time_stride: int
    """Feature frames from one output frame to the next."""

    @classmethod
    def output_frames(cls, num_frames: int) -> int:
        """Output frames for a number of feature frames."""


@dataclass(frozen=True)
class BatchSettings:
    """How utterances become batches."""

    max_batch_seconds: float = 120.0
    """Budget of a batch in seconds of audio as recorded, padding included. A longer utterance is alone in its batch, up
    to 300 s; what is longer than both is refused."""
    sorta_grad: bool = True
    """First epoch from the shortest utterance to the longest (Amodei et al. 2015, section 3.3)."""
    num_workers: int = 1
    """Processes that read audio ahead; 0 reads in the training process."""
    open_shards: int = 8
    """Of a corpus in shards (seqdsd shard), how many are read from at a time: an epoch takes them in a random order, so
    many together, and makes batches of what is in these."""

    def __post_init__(self) -> None:
        if not self.max_batch_seconds > 0:
            raise ValueError(f"max_batch_seconds must be above 0, got {self.max_batch_seconds}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.open_shards < 1:
            raise ValueError(f"open_shards must be at least 1, got {self.open_shards}")


@dataclass(frozen=True)
class FeatureSettings:
    """What the network hears of an utterance, every 10 ms."""

    kind: Literal["linear", "mel"] = "linear"
    """linear: the paper's log spectrogram, 161 bins; mel: log-mel, fewer bins that are wider towards 8 kHz."""
    num_mels: int = 80
    """Bins of log-mel, 24 to 191 (fewer where highest_hz is lower); linear has 161 always."""
    highest_hz: float = HIGHEST_MEL_HZ
    """Where log-mel ends, 1000 to 8000: 4000 for telephone speech, which has nothing above."""
    normalise: Normalise = "bin"
    """What is taken from an utterance's log power. bin: each bin's mean and SD; mean: each bin's mean, one SD for all;
    utterance: one mean and one SD for all, which keeps the spectrum's tilt (and the microphone's)."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "mel"):  # exported files are not checked before
            raise ValueError(f"kind must be linear or mel, got {self.kind!r}")
        if self.num_mels < LEAST_MELS:
            raise ValueError(
                f"num_mels must be at least {LEAST_MELS} (with fewer torch's convolution may end the process), "
                f"got {self.num_mels}"
            )
        mel_filters(self.num_mels, self.highest_hz)

    @property
    def num_bins(self) -> int:
        """Features of a frame."""
        return self.num_mels if self.kind == "mel" else LINEAR_BINS

    def make(self) -> LogSpectrogram:
        """The module that computes them."""
        if self.kind == "linear":
            return LogSpectrogram(self.normalise)
        return LogSpectrogram(self.normalise, num_mels=self.num_mels, highest_hz=self.highest_hz)


@dataclass(frozen=True)
class AugmentSettings:
    """Variation of the training data; all of it off by default, as in the paper."""

    spec_augment: bool = False
    """Mask random bands and stretches of the spectrogram (Park et al. 2019)."""
    freq_masks: int = 2
    """Bands masked in an utterance."""
    freq_width_bins: int = 27
    """Widest band, as of 161 bins: of log-mel's 80, 27 are 13."""
    time_masks: int = 2
    """Stretches masked in an utterance."""
    time_width_frames: int = 50
    """Longest stretch, in frames of 10 ms."""
    max_time_share: float = 0.2
    """Bound of all masked stretches together, as a share of the utterance."""
    speed_factors: tuple[float, ...] = (1.0,)
    """Each utterance is played at one of these, drawn anew in each epoch: 0.9 1.0 1.1 (Ko et al. 2015)."""
    stretch: float = 0.0
    """Each utterance is played up to this share faster or slower at the same pitch, drawn anew in each epoch."""
    pitch_semitones: float = 0.0
    """Each utterance's pitch is raised or lowered by up to so many semitones, drawn anew in each epoch."""

    def __post_init__(self) -> None:
        if not self.speed_factors or not all(0.5 <= factor <= 2 for factor in self.speed_factors):
            raise ValueError(
                f"speed_factors must be one or more numbers in [0.5, 2], got {self.speed_factors}"
            )
        if not 0 <= self.stretch <= 0.5:
            raise ValueError(f"stretch must lie in [0, 0.5], got {self.stretch}")
        if not 0 <= self.pitch_semitones <= 12:
            raise ValueError(f"pitch_semitones must lie in [0, 12], got {self.pitch_semitones}")
        self.masks(LINEAR_BINS)

    @property
    def slowest(self) -> float:
        """The least factor by which an utterance is played faster."""
        return min(self.speed_factors) * (1 - self.stretch)

    @property
    def fastest(self) -> float:
        """The largest factor by which an utterance is played faster."""
        return max(self.speed_factors) * (1 + self.stretch)

    def masks(self, num_bins: int) -> SpecAugment | None:
        """The masks for features of so many bins, or None where they are off."""
        masks = SpecAugment(
            freq_masks=self.freq_masks,
            freq_width_bins=round(self.freq_width_bins * num_bins / LINEAR_BINS),
            time_masks=self.time_masks,
            time_width_frames=self.time_width_frames,
            max_time_share=self.max_time_share,
        )
        return masks if self.spec_augment else None


class Recogniser:
    """An acoustic model with the features before it and the decoding after it."""

    def __init__(
        self, features: LogSpectrogram, tokenizer: Tokenizer, decoding: DecodingSettings | None = None
    ) -> None:
        """Max decoding, unless another is asked for.

        Raises:
            ValueError: See ``make_decoder``.
        """
        self.features = features
        self.tokenizer = tokenizer
        self.decoding = decoding or DecodingSettings()
        self.tokens = make_decoder(self.decoding, tokenizer)

    def log_probs(
        self,
        model: nn.Module,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, "batch"],
        masks: SpecAugment | None = None,
    ) -> tuple[Float[Tensor, "batch out_frames vocab"], Int[Tensor, "batch"]]:
        """Log-probabilities on the waveforms' device; output lengths on the CPU if ``num_samples`` is there."""
        with torch.no_grad():
            features, _ = self.features.to(waveforms.device, non_blocking=True)(waveforms, num_samples)
            num_frames = LogSpectrogram.num_frames(num_samples)
            if masks is not None:
                features = masks(features, num_frames, generator=torch.default_generator)
        return model(features, num_frames)

    def texts(
        self, log_probs: Float[Tensor, "batch frames vocab"], num_frames: Int[Tensor, "batch"]
    ) -> list[str]:
        """Text an item, by the decoding asked for; ``tokens`` gives the ids that spell it."""
        return [self.tokenizer.decode(ids) for ids in self.tokens(log_probs, num_frames)]


@dataclass(frozen=True)
class Outputs:
    """What the network makes of a batch."""

    loss: Float[Tensor, ""]
    """CTC loss, summed over the utterances."""
    log_probs: Float[Tensor, "batch out_frames vocab"]
    num_frames: Int[Tensor, "batch"]


@dataclass
class SpeechTask:
    """The engine's task for a recogniser trained with CTC on a corpus (see ``seqdsd.engine.Task``)."""

    model: nn.Module
    tokenizer: Tokenizer
    corpus: Corpus | Mapping[str, Manifest]
    """To train on and be judged by; or, to be judged alone, manifests by the name of their split."""
    batches_settings: BatchSettings = field(default_factory=BatchSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    on_bad_data: OnBadData = "error"
    seed: int = 0
    pin_memory: bool = False
    processes: Processes = field(default_factory=Processes)
    """Each trains on its share of a batch, and evaluates its share of the batches."""
    accumulate: int = 1
    """Micro-batches, at most, in which a process computes its share of a batch; batch norm sees one at a time."""

    def __post_init__(self) -> None:
        """Check every transcript of every split.

        Raises:
            BadDataError: See ``seqdsd.data.check_transcripts``.
        """
        self.recogniser = Recogniser(self.features.make(), self.tokenizer)
        self.skipped: dict[str, str] = {}
        self._rates_seen: set[int] = set()
        self._silent: set[tuple[str, str]] = set()
        manifests = _manifests(self.corpus)
        self._splits = {split: self._checked(manifest, split) for split, manifest in manifests.items()}
        self._masks = self.augment.masks(self.features.num_bins)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of ids, durations and transcripts of the training utterances, not of where their audio lies."""
        digest = hashlib.blake2b(digest_size=16)
        for one in self._splits["train"].utterances:
            digest.update(f"{one.id}\t{one.duration_seconds}\t{one.text}\n".encode())
        return digest.hexdigest()

    @property
    def test_splits(self) -> list[str]:
        """``test``, or the names of the several test sets; none where the corpus was read without them."""
        return [split for split in self._splits if split not in ("train", "dev")]

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split that can be used."""
        return self._splits[split].utterances

    @property
    def seconds(self) -> dict[str, float]:
        """Audio of each split."""
        return {
            split: sum(utterance.duration_seconds for utterance in manifest.utterances)
            for split, manifest in self._splits.items()
        }

    @cached_property
    def num_batches(self) -> int:
        """Batches of an epoch; they differ by a few at most."""
        return len(self._training_sampler(epoch=1))

    def batches(self, epoch: int, *, first: int) -> Iterator[list[SpeechBatch]]:
        """This process's share of the training batches of an epoch, but of the ``first`` ones, in micro-batches.

        Raises:
            BadDataError: If an utterance cannot be read and ``on_bad_data`` is "error", or a web server is to blame.
        """
        by_length = self.batches_settings.sorta_grad and epoch == 0
        sampler = self._training_sampler(epoch=epoch, first=first, by_length=by_length)
        dataset = self._dataset(
            "train",
            speed_factors=self.augment.speed_factors,
            stretch=self.augment.stretch,
            pitch_semitones=self.augment.pitch_semitones,
            seed=(self.seed, epoch),
        )
        plan = [self.processes.micro_batches(one, self.accumulate) for one in sampler]
        loaded = self._load("train", dataset, [one for micro_batches in plan for one in micro_batches])
        for micro_batches in plan:
            yield [self._not_missed(next(loaded)) for _ in micro_batches]

    def largest_batch(self) -> list[SpeechBatch]:
        """This process's share of the training batch of which a process computes most at once, in micro-batches.

        It is made of noise: each utterance is as long as the longest one, at the slowest speed.
        """
        utterances = self._splits["train"].utterances

        def longest_seconds(indices: Sequence[int]) -> float:
            return max(utterances[index].duration_seconds for index in indices)

        def seconds_at_once(batch: Sequence[int]) -> float:
            return self.processes.largest_micro_batch(len(batch), self.accumulate) * longest_seconds(batch)

        # The longest utterances together, or a batch of short ones that uses more of its budget.
        every = [*self._training_sampler(by_length=True), *self._training_sampler(epoch=1)]
        largest = max(every, key=seconds_at_once)
        num_samples = math.ceil(longest_seconds(largest) / self.augment.slowest * SAMPLE_RATE_HZ)
        return [
            SpeechBatch.noise([self.tokenizer.encode(utterances[index].text) for index in one], num_samples)
            for one in self.processes.micro_batches(largest, self.accumulate)
        ]

    def _not_missed(self, batch: SpeechBatch) -> SpeechBatch:
        """Something to compute on, of several processes, where nothing could be read: the others wait."""
        return SpeechBatch.silence(SAMPLE_RATE_HZ) if len(batch) == 0 and self.processes.count > 1 else batch

    def loss(self, model: nn.Module, batch: SpeechBatch) -> Float[Tensor, ""]:
        """CTC loss, summed over an utterance's frames and averaged over utterances."""
        return self._forward(model, batch, self._masks).loss / max(1, len(batch))

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        split: str,
        device: torch.device,
        *,
        after_batch: Callable[[int], None] = lambda utterances: None,
    ) -> Evaluation:
        """Decode a split: WER, CER and the mean CTC loss an utterance.

        Args:
            model: The task's own, as the engine has wrapped it.
            split: ``dev``, ``test`` or the name of a test set.
            device: Where the model lies.
            after_batch: Told how many more utterances are done, to show progress.

        Raises:
            BadDataError: If an utterance cannot be read and ``on_bad_data`` is "error", or if none can.
        """
        loss, rows = torch.zeros((), device=device), {}
        for batch, outputs in self.outputs(model, split, device, after_batch=after_batch):
            loss += outputs.loss
            hyps = self.recogniser.texts(outputs.log_probs, outputs.num_frames)
            for id_, ref, hyp in zip(batch.ids, batch.texts, hyps, strict=True):
                rows[id_] = {"id": id_, "ref": ref, "hyp": hyp}
        rows = {row["id"]: row for row in self.processes.gather(list(rows.values()))}
        self.skipped |= self.processes.gather(list(self.skipped.items()))
        self._silent |= set(self.processes.gather(list(self._silent)))
        ordered = [_of_speaker(rows[one.id], one) for one in self._splits[split].utterances if one.id in rows]
        if not ordered:
            raise BadDataError(f"{self._splits[split].path}: none of its utterances can be read")
        mean_loss = float(self.processes.sum_(loss)) / len(ordered)
        notes = self._silence_notes(("train", split) if split == "dev" else (split,))
        decoding = str(self.recogniser.decoding)
        return _judged(ordered, mean_loss, notes, decoding=decoding, usual_epochs=self._usual_epochs)

    def _silence_notes(self, splits: Sequence[str]) -> list[Note]:
        """On the recordings of these splits that were silent; the training set's are said with dev's."""
        notes = []
        for split in splits:
            of_split = [] if split not in self._splits else self._splits[split].utterances
            silent = [one for one in of_split if (split, one.id) in self._silent]
            if silent:
                notes.append(_silence_note(split, silent, len(of_split)))
        return notes

    @property
    def _usual_epochs(self) -> int:
        """In which no word is right; 1 where nothing is trained."""
        if "train" not in self._splits:
            return 1
        return max(USUAL_EPOCHS, math.ceil(USUAL_STEPS / self.num_batches))

    @torch.inference_mode()
    def outputs(
        self,
        model: nn.Module,
        split: str,
        device: torch.device,
        *,
        after_batch: Callable[[int], None] = lambda utterances: None,
    ) -> Iterator[tuple[SpeechBatch, Outputs]]:
        """What the network makes of this process's share of a split, from the shortest utterance to the longest."""
        model.eval()
        batches = self.processes.every_nth(list(self._evaluation_sampler(split)))
        for batch in self._load(split, self._dataset(split), batches):
            if len(batch) > 0:
                yield batch, self._forward(model, batch.to(device))
            after_batch(len(batch) + len(batch.bad))

    def _forward(self, model: nn.Module, batch: SpeechBatch, masks: SpecAugment | None = None) -> Outputs:
        log_probs, num_frames = self.recogniser.log_probs(model, batch.waveforms, batch.num_samples, masks)
        loss = nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            batch.tokens,
            num_frames,
            batch.num_tokens,
            blank=self.tokenizer.blank_id,
            reduction="sum",
        )
        return Outputs(loss, log_probs, num_frames)

    def _checked(self, manifest: Manifest, split: str) -> Manifest:
        speed_factor = self.augment.fastest if split == "train" else 1.0

        def output_frames(seconds: float) -> int:
            num_samples = math.floor(seconds / speed_factor * SAMPLE_RATE_HZ)
            return self.model.output_frames(LogSpectrogram.num_frames(num_samples))  # type: ignore[operator]

        checked = check_transcripts(
            manifest,
            self.tokenizer,
            output_frames=output_frames,
            longest_seconds=max(self.batches_settings.max_batch_seconds, LONGEST_ALONE_SECONDS),
            on_bad_data=self.on_bad_data,
        )
        self.skipped |= {_source(message): message for message in checked.skipped}
        return checked

    def _sampler(self, split: str, *, max_batch_seconds: float, **options: Any) -> BucketBatchSampler:
        seconds = [utterance.duration_seconds for utterance in self._splits[split].utterances]
        return BucketBatchSampler(seconds, max_batch_seconds=max_batch_seconds, seed=self.seed, **options)

    def _evaluation_sampler(self, split: str) -> BucketBatchSampler:
        """By length; a batch has no more audio than a process computes at once in training, or one utterance."""
        at_once = self.batches_settings.max_batch_seconds / (self.processes.count * self.accumulate)
        return self._sampler(split, max_batch_seconds=at_once, by_length=True)

    def _training_sampler(self, **options: Any) -> BucketBatchSampler:
        """With few shards open at a time, where training utterances are in shards."""
        shards = [one.member.shard.number for one in self._splits["train"].utterances if one.member]
        settings = self.batches_settings
        return self._sampler(
            "train",
            max_batch_seconds=settings.max_batch_seconds,
            shards=shards or None,
            open_shards=settings.open_shards,
            **options,
        )

    def _dataset(self, split: str, **options: Any) -> SpeechDataset:
        return SpeechDataset(
            self._splits[split].utterances,
            self.tokenizer,
            sample_rate_hz=SAMPLE_RATE_HZ,
            min_samples=WINDOW_SAMPLES,
            **options,
        )

    def _load(
        self, split: str, dataset: SpeechDataset, batches: Sequence[Sequence[int]]
    ) -> Iterator[SpeechBatch]:
        workers = self.batches_settings.num_workers
        for batch in load_batches(dataset, batches, num_workers=workers, pin_memory=self.pin_memory):
            for rate_hz in batch.original_rates_hz - self._rates_seen:
                self._rates_seen.add(rate_hz)
                if workers and rate_hz != SAMPLE_RATE_HZ:  # read here, the reader has said so itself
                    log.warning("resampling audio from %d Hz to %d Hz", rate_hz, SAMPLE_RATE_HZ)
            for bad in batch.bad:
                if self.on_bad_data == "error" or bad.is_outage:
                    skip = "" if bad.is_outage else "; or --on-bad-data skip"
                    raise BadDataError(f"{bad.message} (mend it, then --resume if this was training{skip})")
                if _source(bad.message) not in self.skipped:
                    log.warning("skipped: %s", bad.message)
                self.skipped[_source(bad.message)] = bad.message
            self._silent |= {(split, id_) for id_ in batch.silent}
            yield batch


def _manifests(corpus: Corpus | Mapping[str, Manifest]) -> Mapping[str, Manifest]:
    if isinstance(corpus, Corpus):
        return {"train": corpus.train, "dev": corpus.dev, **corpus.test}
    return corpus


def _source(message: str) -> str:
    """The manifest line that a message on bad data begins with; ids are unique within a manifest only."""
    return message.split(": ")[0]


def _of_speaker(row: dict[str, str], utterance: Utterance) -> dict[str, str]:
    """The row with who speaks, where that is known: what one speaker says is one draw of the statistics."""
    return row if utterance.speaker is None else {**row, "speaker": utterance.speaker}


def _silence_note(split: str, silent: Sequence[Utterance], of: int) -> Note:
    # A run that goes on within an epoch knows of what it has read itself.
    so_far = ", of those read so far," if split == "train" else ""
    return Note(
        f"silent in {split}",
        f"{len(silent):,} of {of:,} recordings of {split}{so_far} are silent (no sample above {SILENT_PEAK:g} of full "
        f"scale); the first: {silent[0].source}: {silent[0].audio_name}. Nothing is heard in them: see how they were "
        "made, or leave them out",
    )


def _judged(
    rows: list[dict[str, str]], mean_loss: float, notes: list[Note], *, decoding: str, usual_epochs: int
) -> Evaluation:
    refs, hyps = [row["ref"] for row in rows], [row["hyp"] for row in rows]
    words, characters = wer(refs, hyps), cer(refs, hyps)
    metrics = {
        "wer": words.rate,
        "cer": characters.rate,
        "utterances": len(rows),
        **_counts(words),
        "characters": _counts(characters),
        "loss": mean_loss,
        "signature": words.signature,
        "decoding": decoding,
    }
    return Evaluation(
        loss=mean_loss,
        score=words.rate,
        headline=f"WER {100 * words.rate:.2f} %",
        metrics=metrics,
        hypotheses=rows,
        notes=notes + _notes(hyps, words, usual_epochs),
    )


def _notes(hyps: Sequence[str], words: ErrorRate, usual_epochs: int) -> list[Note]:
    """Whether anything was learned at all; what it is not yet, in the first epochs."""
    empty = sum(not hyp for hyp in hyps) / len(hyps)
    if empty >= BLANK_COLLAPSE_SHARE:
        found = f"blank collapse: {empty:.0%} of the hypotheses are empty"
    elif words.hits < FEW_WORDS_SHARE * words.ref_length:
        found = f"hardly a word is right: {words.hits:,} of {words.ref_length:,}"
    else:
        return []
    return [
        Note(
            "no word right",
            f"{found}. If the training loss still falls, train for more epochs (--epochs) or at a higher learning rate "
            "(--learning-rates); if it stands, at a third of the rate and then at three times as much; if neither "
            "helps, see that the recordings are not silent, and that the transcripts belong to them",
            epochs=usual_epochs,
            share=USUAL_SHARE,
        )
    ]


def _counts(rate: ErrorRate) -> dict[str, int]:
    counts = {name: value for name, value in asdict(rate).items() if name != "unit"}
    return {**counts, f"ref_{rate.unit}": rate.ref_length}
