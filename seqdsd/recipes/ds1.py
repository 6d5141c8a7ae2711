"""DeepSpeech 1 with Dense-Sparse-Dense training (Han et al. 2017, section 4.5).

    python -m seqdsd.recipes.ds1 --iters 2                               # embedded corpus, no download
    python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --iters 2  # AN4

Where no data is named a small corpus is synthesised, and the settings begin from ``ds1_embedded.toml``; with ``--data``
they are chosen for the corpus (``fitting``), and with ``--preset paper`` they are the paper's. What a run does is
``SpeechRecipe``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from seqdsd.models import DeepSpeech1
from seqdsd.recipes.fitting import DS1
from seqdsd.recipes.speech import SpeechConfig, SpeechRecipe, TokenizerSettings
from seqdsd.recipes.training import RunResult
from seqdsd.sparsity.schedule import DS1_LEARNING_RATES, DS1_SPARSITIES
from seqdsd.text import Tokenizer


@dataclass(frozen=True)
class NetworkSettings:
    """How it departs from Table 6."""

    batch_norm: bool = False
    """Batch norm over valid frames on every hidden layer, in place of its bias; small corpora need it."""
    last_fc: bool = True
    """Table 6's FC layer after the recurrent one; without it small corpora learn sooner."""
    dropout: float = 0.0
    """On the feed-forward layers' outputs, in training."""
    blank_bias: float = 0.0
    """Added at the start to the output's bias of CTC's blank; with 3 networks learned sooner on AN4."""
    recompute_layers: bool = False
    """Compute each layer again in the backward pass rather than keep what is inside it: less memory, more time."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not math.isfinite(self.blank_bias):
            raise ValueError(f"blank_bias must be finite, got {self.blank_bias}")


@dataclass(frozen=True, kw_only=True)
class Config(SpeechConfig):
    """Settings of a DeepSpeech 1 run; the defaults are the paper's where it prints them."""

    out: Path = Path("runs/ds1")
    """The run folder."""
    epochs: tuple[int, ...] = (50,)
    """Epochs of each phase: one number for all or one a phase (Table 7: 50)."""
    hidden_size: int = 1024
    """Units of every hidden layer (Table 6's counts)."""
    learning_rates: tuple[float, ...] = DS1_LEARNING_RATES
    """One a phase (Table 7); further phases keep the last ratio."""
    sparsities: tuple[float, ...] = DS1_SPARSITIES
    """One a round (Table 7); further rounds halve the last."""
    network: NetworkSettings = field(default_factory=NetworkSettings)


def make_model(config: Config, tokenizer: Tokenizer) -> DeepSpeech1:
    """The network, with fresh weights from torch's generator."""
    return DeepSpeech1(
        vocab_size=tokenizer.vocab_size,
        num_bins=config.features.num_bins,
        hidden_size=config.hidden_size,
        batch_norm=config.network.batch_norm,
        last_fc=config.network.last_fc,
        dropout=config.network.dropout,
        blank_bias=config.network.blank_bias,
        recompute_layers=config.network.recompute_layers,
    )


RECIPE = SpeechRecipe("ds1", "DeepSpeech 1", Config, make_model, DS1)
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
