"""What ``seqdsd tune-decoding`` found, in the run's folder or beside the file, and its use by commands that decode."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w

from seqdsd.config import read_values
from seqdsd.records import checked, shapes, write_atomically
from seqdsd.tasks import DecodingSettings
from seqdsd.tasks.decoding import digest_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedWeights:
    """How to weigh one language model beside one network."""

    lm: str
    """The file's name, for people."""
    lm_digest: str
    """Of the file's contents."""
    phase: str
    """Whose weights the network had."""
    lm_weight: shapes.Number
    word_bonus: shapes.Number
    dev_wer: shapes.Rate
    """As a fraction."""

    def write(self, path: Path) -> None:
        """Write them, in place of those found before."""
        write_atomically(path, tomli_w.dumps(vars(self)))

    @classmethod
    def read(cls, path: Path) -> TunedWeights:
        """Read what ``write`` wrote.

        Raises:
            ConfigError, RunFolderError: If the file cannot be read, or is not what ``write`` writes.
        """
        values = read_values(path)
        checked(values, cls, str(path), remedy="run seqdsd tune-decoding again")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


def with_tuned_weights(asked: DecodingSettings, path: Path, *, phase: str) -> DecodingSettings:
    """Weights that are not asked for are those that were found on dev for this language model, if they were.

    Args:
        asked: The decoding asked for.
        path: Where they are kept, if they are (``Saved.decoding``).
        phase: Name of the phase whose weights the network has.

    Raises:
        ConfigError, RunFolderError: If what was found cannot be read.
        OSError: If the language model cannot be read.
    """
    if asked.lm is None or (asked.lm_weight is not None and asked.word_bonus is not None):
        return asked
    if not path.is_file():
        log.warning("the language model's weights are guesses: seqdsd tune-decoding finds them on dev")
        return asked
    tuned = TunedWeights.read(path)
    if tuned.lm_digest != digest_of(asked.lm):
        log.warning(
            "the weights in %s are of another language model (%s) and are not used; seqdsd tune-decoding finds this "
            "one's",
            path,
            tuned.lm,
        )
        return asked
    if tuned.phase != phase:
        log.warning(
            "the weights in %s were found for %s and are used with %s; seqdsd tune-decoding --phase finds its own",
            path,
            tuned.phase,
            phase,
        )
    return replace(
        asked,
        lm_weight=tuned.lm_weight if asked.lm_weight is None else asked.lm_weight,
        word_bonus=tuned.word_bonus if asked.word_bonus is None else asked.word_bonus,
    )
