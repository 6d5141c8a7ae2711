"""Other people's recognisers, trained in plain torch: AdamW, one cycle of the rate, log-mel features, CTC.

A witness that shares as little as can be with what it is compared with: no engine, task, features or optimizer of ours.
Ours are the reading of audio, the planning of batches, the characters, max decoding and the counting of errors.
"""

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from benchmarks.ctc_rivals import VOCAB_SIZE, SpeechBrainCRDNN, TorchaudioDeepSpeech
from seqdsd.data import BucketBatchSampler, Corpus, Manifest, SpeechBatch, SpeechDataset, load_batches
from seqdsd.decode import greedy_decode
from seqdsd.metrics import wer
from seqdsd.text import CharacterTokenizer

NUM_BINS = 80
DROPOUT = 0.1
"""But SpeechBrain's recipe has 0.15."""
WARM_UP = 0.1
"""Share of the steps in which the rate rises."""
CLIP_NORM = 100.0
"""Of the gradient of a loss that is summed over an utterance."""
EVALUATION_SECONDS = 60.0
"""Of audio in a batch."""


class GRU(nn.Module):
    """A convolution of stride 2, two bidirectional GRU layers and a linear one; an output every 20 ms."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.input = nn.Conv1d(NUM_BINS, units, 5, stride=2, padding=2)
        self.recurrent = nn.GRU(units, units, 2, batch_first=True, bidirectional=True, dropout=DROPOUT)
        self.output = nn.Linear(2 * units, VOCAB_SIZE)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Padding is left out."""
        lengths = (num_frames - 1) // 2 + 1
        hidden = self.dropout(self.input(features.transpose(1, 2)).relu().transpose(1, 2))
        packed = nn.utils.rnn.pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.output(self.dropout(hidden)).log_softmax(-1), lengths


class Conformer(nn.Module):
    """``torchaudio.models.Conformer`` of six layers behind two convolutions of stride 2; an output every 40 ms.

    Four heads, FC layers of four times the units and a kernel of 31, as in its ``conformer_rnnt_base``. That has 16
    layers for 512 units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        from torchaudio.models import Conformer

        size = max(4, 4 * (units // 4))
        self.input = nn.Sequential(
            nn.Conv1d(NUM_BINS, size, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(size, size, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        # Odd units widen the FC layers, so that every number of parameters can be met.
        wide = 4 * size + 4 * (units - size)
        self.model = Conformer(size, 4, wide, 6, 31, dropout=DROPOUT)
        self.output = nn.Linear(size, VOCAB_SIZE)

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Attention leaves padding out, the rest computes on it."""
        hidden = self.input(features.transpose(1, 2)).transpose(1, 2)
        hidden, lengths = self.model(hidden, (num_frames + 3) // 4)
        return self.output(hidden).log_softmax(-1), lengths


RIVALS: dict[str, tuple[str, str, Callable[[int], nn.Module]]] = {
    "gru": ("torch", "torch", GRU),
    "torchaudio-deepspeech": (
        "torchaudio",
        "torchaudio",
        lambda units: TorchaudioDeepSpeech(units, num_bins=NUM_BINS, dropout=DROPOUT),
    ),
    "torchaudio-conformer": ("torchaudio", "torchaudio", Conformer),
    "crdnn": (
        "speechbrain",
        "--no-deps speechbrain hyperpyyaml ruamel.yaml pyyaml",
        # LSTM: its own LiGRU takes several times as long (README).
        lambda units: SpeechBrainCRDNN(units, num_bins=NUM_BINS, rnn="LSTM", dropout=0.15),
    ),
}
"""By name: the package it needs, what to tell pip to have it, and how it is built with so many units."""


def missing(name: str) -> str | None:
    """Why a rival cannot be built here, and what to do; None if it can."""
    package, install, _ = RIVALS[name]
    if importlib.util.find_spec(package):
        return None
    return f"{name}: {package} is not installed; pip install {install}"


class LogMel(nn.Module):
    """80 log-mel bins of 25 ms every 10 ms, each of mean 0 and variance 1 over the utterance."""

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        self.hop_samples = sample_rate_hz // 100
        self.mel = MelSpectrogram(
            sample_rate_hz,
            n_fft=512,
            win_length=sample_rate_hz // 40,
            hop_length=self.hop_samples,
            f_min=20.0,
            n_mels=NUM_BINS,
            pad_mode="constant",
        )

    @torch.no_grad()
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """From [batch, samples] to [batch, frames, bins]; padding is 0."""
        features = torch.log(self.mel(waveforms) + 1e-6).transpose(1, 2)
        num_frames = num_samples // self.hop_samples + 1
        is_valid = (torch.arange(features.shape[1]) < num_frames[:, None])[..., None]
        centred = features - (features * is_valid).sum(1, keepdim=True) / num_frames[:, None, None]
        variance = (centred.square() * is_valid).sum(1, keepdim=True) / num_frames[:, None, None]
        return centred * is_valid / (variance + 1e-4).sqrt(), num_frames


@dataclass
class Training:
    """What came out; the lists are by epoch."""

    train_loss: list[float] = field(default_factory=list)
    """CTC loss an utterance."""
    dev_wer: list[float] = field(default_factory=list)
    best_epoch: int = 0
    """From 1: the one with the lowest dev WER, the first of equal ones."""
    test_wer: float = math.nan
    """Of the best epoch's weights."""
    train_seconds: float = 0.0
    """Without evaluation."""
    skipped_steps: int = 0
    """Their gradients were not finite."""


def train_rival(
    model: nn.Module,
    corpus: Corpus,
    *,
    sample_rate_hz: int,
    epochs: int,
    batch_seconds: float,
    peak: float,
    seed: int,
    after_epoch: Callable[[Training], None] = lambda training: None,
) -> Training:
    """Train a network, take the best dev epoch's weights and score the test set with them.

    Args:
        model: From features [batch, frames, 80] and lengths to log-probabilities and lengths.
        corpus: What is read and judged.
        sample_rate_hz: Of its recordings.
        epochs: How many.
        batch_seconds: Audio in a batch, padding included; more where an utterance is longer.
        peak: Of the rate.
        seed: Of dropout and the batches' order; weights are the caller's.
        after_epoch: Told what there is so far.

    Raises:
        ValueError: If a recording cannot be read.
    """
    torch.manual_seed(seed)
    features = LogMel(sample_rate_hz)
    plans = [
        _plan(corpus.train, batch_seconds, seed=seed, epoch=1 + epoch) for epoch in range(epochs)
    ]  # all of them: the cycle has to know its steps
    optimizer = make_optimizer(model, peak)
    cycle = one_cycle(optimizer, sum(map(len, plans)))
    done, best = Training(), deepcopy(model.state_dict())
    for plan in plans:
        start = time.perf_counter()
        losses, model = [], model.train()
        for batch in _read(corpus.train, plan, sample_rate_hz):
            loss = take_step(model, features, batch, optimizer)
            cycle.step()
            losses += [loss] if math.isfinite(loss) else []
        done.train_seconds += time.perf_counter() - start
        done.skipped_steps += len(plan) - len(losses)
        done.train_loss.append(sum(losses) / len(losses) if losses else math.nan)
        done.dev_wer.append(word_error_rate(model, features, corpus.dev, sample_rate_hz))
        if done.dev_wer[-1] < min(done.dev_wer[:-1], default=math.inf):
            done.best_epoch, best = len(done.dev_wer), deepcopy(model.state_dict())
        after_epoch(done)
    model.load_state_dict(best)
    done.test_wer = word_error_rate(model, features, corpus.test["test"], sample_rate_hz)
    return done


def make_optimizer(model: nn.Module, peak: float) -> torch.optim.Optimizer:
    """AdamW; biases and scales do not decay."""
    weights = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99))


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Evenly up to the optimizer's rate over ``WARM_UP`` of the steps, then down to 0 by a cosine."""
    warm = max(1, round(WARM_UP * steps))

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def take_step(
    model: nn.Module, features: LogMel, batch: SpeechBatch, optimizer: torch.optim.Optimizer
) -> float:
    """One step on a batch; returns the loss an utterance, NaN or infinite where no step was taken."""
    log_probs, num_frames = model(*features(batch.waveforms, batch.num_samples))
    loss = nn.functional.ctc_loss(
        log_probs.float().transpose(0, 1),
        batch.tokens,
        num_frames,
        batch.num_tokens,
        reduction="sum",
        zero_infinity=True,  # a rival's few frames may be too few for some transcripts
    ) / len(batch)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    if not norm.isfinite():
        return math.nan
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def word_error_rate(model: nn.Module, features: LogMel, split: Manifest, sample_rate_hz: int) -> float:
    """Of max decoding."""
    model.eval()
    tokenizer = CharacterTokenizer()
    refs, hyps = list[str](), list[str]()
    for batch in _read(split, _plan(split, EVALUATION_SECONDS), sample_rate_hz):
        log_probs, num_frames = model(*features(batch.waveforms, batch.num_samples))
        refs += batch.texts
        hyps += [tokenizer.decode(ids) for ids in greedy_decode(log_probs, num_frames)]
    return wer(refs, hyps).rate


def _plan(split: Manifest, seconds: float, *, seed: int = 0, epoch: int | None = None) -> list[list[int]]:
    """Batches of one epoch in an order of its own; without one, from short to long."""
    durations = [one.duration_seconds for one in split.utterances]
    return list(
        BucketBatchSampler(
            durations,
            max_batch_seconds=max(seconds, *durations),
            seed=seed,
            epoch=epoch or 0,
            by_length=epoch is None,
        )
    )


def _read(split: Manifest, plan: list[list[int]], sample_rate_hz: int) -> Iterator[SpeechBatch]:
    """The batches.

    Raises:
        ValueError: For a recording that cannot be read.
    """
    dataset = SpeechDataset(split.utterances, CharacterTokenizer(), sample_rate_hz=sample_rate_hz)
    for batch in load_batches(dataset, plan, num_workers=0):
        if batch.bad:
            raise ValueError(batch.bad[0].message)
        yield batch
