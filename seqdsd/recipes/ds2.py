"""DeepSpeech 2 with Dense-Sparse-Dense training (Han et al. 2017, section 4.6).

    python -m seqdsd.recipes.ds2 --iters 2                  # embedded corpus, no download
    python -m seqdsd.recipes.ds2 --data data/librispeech    # your own

Where no data is named a small corpus is synthesised, and the settings begin from ``ds2_embedded.toml``; with ``--data``
they are chosen for the corpus (``fitting``), and with ``--preset paper`` they are the paper's. What a run does is
``SpeechRecipe``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from seqdsd.models import DeepSpeech2
from seqdsd.models.deepspeech2 import Cell
from seqdsd.models.gated_rnn import Directions
from seqdsd.recipes.fitting import DS2
from seqdsd.recipes.speech import SpeechConfig, SpeechRecipe, TokenizerSettings
from seqdsd.recipes.training import RunResult
from seqdsd.sparsity.schedule import DS2_LEARNING_RATES, DS2_SPARSITIES
from seqdsd.text import Tokenizer

MAX_LAYERS = 100


@dataclass(frozen=True)
class NetworkSettings:
    """Which DeepSpeech 2: Table 8's, or one of those in Amodei et al. 2015."""

    num_recurrent_layers: int = 7
    """Table 8: 7."""
    cell: Cell = "relu"
    """relu: the papers' plain cell, one input matrix for both directions; or torch's gru or lstm."""
    recurrent_norm: bool = True
    """Batch norm in the recurrent layers, as in the papers; small corpora learn sooner with gated cells and without."""
    directions: Directions = "summed"
    """Of gated cells: a layer's two are summed, as in the papers, or concatenated."""
    last_fc: bool = True
    """Table 8's FC layer after the recurrent ones."""
    bidirectional: bool = True
    """Without it the recurrent layers look back only, and a row convolution follows them, for streaming."""
    future_frames: int = 20
    """Output frames of 20 ms that the row convolution looks ahead; only where not bidirectional."""
    dropout: float = 0.0
    """On what enters each recurrent layer but the first, and what follows the last, in training."""
    blank_bias: float = 0.0
    """Added at the start to the output's bias of CTC's blank; with 3 networks learned sooner on AN4."""
    recompute_layers: bool = False
    """Compute each layer again in the backward pass rather than keep what is inside it: less memory, more time."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_recurrent_layers <= MAX_LAYERS:
            raise ValueError(
                f"num_recurrent_layers must be at least 1 and at most {MAX_LAYERS}, got {self.num_recurrent_layers}"
            )
        if self.future_frames < 0:
            raise ValueError(f"future_frames must not be negative, got {self.future_frames}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not math.isfinite(self.blank_bias):
            raise ValueError(f"blank_bias must be finite, got {self.blank_bias}")


@dataclass(frozen=True, kw_only=True)
class Config(SpeechConfig):
    """Settings of a DeepSpeech 2 run; the defaults are the paper's where it prints them."""

    out: Path = Path("runs/ds2")
    """The run folder."""
    epochs: tuple[int, ...] = (20,)
    """Epochs of each phase: one number for all or one a phase (Table 9: 20)."""
    hidden_size: int = 1760
    """Units of every recurrent layer and of the FC layer (Table 8's counts)."""
    learning_rates: tuple[float, ...] = DS2_LEARNING_RATES
    """One a phase (Table 9); further phases keep the last ratio."""
    sparsities: tuple[float, ...] = DS2_SPARSITIES
    """One a round (Table 9); further rounds halve the last."""
    network: NetworkSettings = field(default_factory=NetworkSettings)


def make_model(config: Config, tokenizer: Tokenizer) -> DeepSpeech2:
    """The network, with fresh weights from torch's generator."""
    return DeepSpeech2(
        vocab_size=tokenizer.vocab_size,
        num_bins=config.features.num_bins,
        hidden_size=config.hidden_size,
        num_recurrent_layers=config.network.num_recurrent_layers,
        cell=config.network.cell,
        recurrent_norm=config.network.recurrent_norm,
        directions=config.network.directions,
        last_fc=config.network.last_fc,
        bidirectional=config.network.bidirectional,
        future_frames=config.network.future_frames,
        dropout=config.network.dropout,
        blank_bias=config.network.blank_bias,
        recompute_layers=config.network.recompute_layers,
    )


RECIPE = SpeechRecipe("ds2", "DeepSpeech 2", Config, make_model, DS2)
run, dry_run, make_task, main = RECIPE.run, RECIPE.dry_run, RECIPE.make_task, RECIPE.main

__all__ = [
    "Config",
    "NetworkSettings",
    "RECIPE",
    "RunResult",
    "TokenizerSettings",
    "dry_run",
    "main",
    "make_model",
    "make_task",
    "run",
]

if __name__ == "__main__":
    main()
