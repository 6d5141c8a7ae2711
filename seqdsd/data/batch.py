"""What a task is fed: a padded batch of utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

SILENT_PEAK = 1e-4
"""A recording without a sample above it is silent: three steps of 16 bits, as a muted channel's noise has."""


@dataclass(frozen=True)
class SpeechExample:
    """One utterance, read and tokenized."""

    id: str
    samples: Float[Tensor, "samples"]
    tokens: list[int]
    text: str
    original_sample_rate_hz: int

    @property
    def is_silent(self) -> bool:
        """Whether nothing would be heard."""
        lowest, highest = self.samples.aminmax()
        return bool(max(highest, -lowest) <= SILENT_PEAK)


@dataclass(frozen=True)
class BadExample:
    """An utterance that could not be read; ``message`` names the manifest line, the file and a remedy."""

    id: str
    message: str
    is_outage: bool = False
    """Whether a server is to blame: then it is not to be skipped, for the next would be, too."""


@dataclass(frozen=True)
class SpeechBatch:
    """Utterances padded to the longest. Lengths stay on the CPU whatever the device of the rest.

    Attributes:
        ids: Utterance ids.
        texts: Reference transcripts.
        waveforms: Samples in [-1, 1], padded with 0.
        num_samples: Valid samples of each.
        tokens: All transcripts' token ids, one after the other, as ``ctc_loss`` takes them.
        num_tokens: Tokens of each transcript.
        original_rates_hz: Sample rates of the recordings before they were resampled.
        bad: Utterances that should have been here.
        silent: Ids of those in which nothing would be heard.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    waveforms: Float[Tensor, "batch samples"]
    num_samples: Int[Tensor, "batch"]
    tokens: Int[Tensor, "all_tokens"]
    num_tokens: Int[Tensor, "batch"]
    original_rates_hz: frozenset[int] = frozenset()
    bad: tuple[BadExample, ...] = ()
    silent: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def silence(cls, num_samples: int) -> SpeechBatch:
        """No utterance, but something for a network to compute on where other processes wait for this one."""
        return cls(
            ids=(),
            texts=(),
            waveforms=torch.zeros(1, num_samples),
            num_samples=torch.tensor([num_samples]),
            tokens=torch.zeros(0, dtype=torch.long),
            num_tokens=torch.tensor([0]),
        )

    @classmethod
    def noise(cls, transcripts: Sequence[Sequence[int]], num_samples: int) -> SpeechBatch:
        """Utterances of one length that say nothing, to see what a batch of that size needs."""
        generator = torch.Generator().manual_seed(0)
        return cls(
            ids=tuple(f"noise-{number}" for number in range(len(transcripts))),
            texts=("",) * len(transcripts),
            waveforms=0.1 * torch.randn(len(transcripts), num_samples, generator=generator),
            num_samples=torch.full((len(transcripts),), num_samples),
            tokens=torch.tensor([id_ for one in transcripts for id_ in one], dtype=torch.long),
            num_tokens=torch.tensor([len(one) for one in transcripts]),
        )

    def to(self, device: torch.device) -> SpeechBatch:
        """The batch with waveforms and tokens on ``device``."""
        return replace(
            self,
            waveforms=self.waveforms.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
        )

    def pin_memory(self) -> SpeechBatch:
        """For the data loader: page-locked waveforms and tokens can be copied to a GPU while it computes."""
        return replace(self, waveforms=self.waveforms.pin_memory(), tokens=self.tokens.pin_memory())


def collate(examples: Sequence[SpeechExample | BadExample]) -> SpeechBatch:
    """Pad the readable examples into one batch (it may be empty) and list the others."""
    good = [example for example in examples if isinstance(example, SpeechExample)]
    samples = [example.samples for example in good]
    return SpeechBatch(
        ids=tuple(example.id for example in good),
        texts=tuple(example.text for example in good),
        waveforms=torch.nn.utils.rnn.pad_sequence(samples, batch_first=True) if good else torch.zeros(0, 0),
        num_samples=torch.tensor([len(one) for one in samples], dtype=torch.long),
        tokens=torch.tensor([token for example in good for token in example.tokens], dtype=torch.long),
        num_tokens=torch.tensor([len(example.tokens) for example in good], dtype=torch.long),
        original_rates_hz=frozenset(example.original_sample_rate_hz for example in good),
        bad=tuple(example for example in examples if isinstance(example, BadExample)),
        silent=tuple(example.id for example in good if example.is_silent),
    )
