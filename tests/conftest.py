"""The corpus that most tests run on: words spelt in tones, one pitch a letter, made in code."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

SAMPLE_RATE_HZ = 16_000
LETTER_SECONDS = 0.06
GAP_SECONDS = 0.02
WORDS = ("bad", "cab", "fed", "age", "hag", "dab", "beef", "egg")


def letter_tone(letter: str) -> np.ndarray:
    """A letter's pitch for 60 ms (a space is silence) and a short gap, so that doubled letters differ."""
    time = np.arange(round(LETTER_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = 400 + 500 * (ord(letter) - ord("a"))
    tone = 0 * time if letter == " " else 0.3 * np.sin(2 * np.pi * pitch_hz * time)
    return np.concatenate([tone, np.zeros(round(GAP_SECONDS * SAMPLE_RATE_HZ))])


def spoken(text: str, noise: np.random.Generator) -> np.ndarray:
    """A text in tones, over a little noise."""
    samples = np.concatenate([letter_tone(letter) for letter in text])
    return samples + 0.01 * noise.standard_normal(len(samples))


@dataclass(frozen=True)
class ToneCorpus:
    """Writes wav files and manifests into a folder."""

    folder: Path

    def write(self, split: str, texts: list[str], *, seed: int = 0) -> list[dict]:
        """One utterance a text; returns the manifest's entries."""
        noise = np.random.default_rng(seed)
        entries = []
        for index, text in enumerate(texts):
            samples = spoken(text, noise)
            path = self.folder / split / f"{split}{index:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            entry = {"audio_filepath": f"{split}/{path.name}", "duration": len(samples) / SAMPLE_RATE_HZ}
            entries.append({**entry, "text": text, "id": path.stem})
        self.write_manifest(split, entries)
        return entries

    def write_manifest(self, split: str, entries: list[dict]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (self.folder / f"{split}.jsonl").write_text(lines)

    def read_manifest(self, split: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text().splitlines()]


def random_texts(count: int, *, seed: int) -> list[str]:
    """Two or three of ``WORDS`` each: 0.6 to 1.1 s of tones."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 4))) for _ in range(count)]


@pytest.fixture(scope="session")
def write_tone_corpus() -> Callable[..., ToneCorpus]:
    """Writes 24 (or more) training utterances; dev and test are 6 of their sentences each, spoken anew."""

    def write(folder: Path, *, num_train: int = 24) -> ToneCorpus:
        corpus, texts = ToneCorpus(folder), random_texts(num_train, seed=1)
        corpus.write("train", texts, seed=1)
        corpus.write("dev", texts[:6], seed=2)
        corpus.write("test", texts[6:12], seed=3)
        return corpus

    return write


@pytest.fixture(scope="session")
def tiny_ds1() -> Callable[..., Any]:
    """Settings of a DeepSpeech 1 small enough for tests; any of them can be changed."""
    # Imported here, since most tests need no torch.
    from seqdsd.engine import NesterovSettings
    from seqdsd.recipes.ds1 import Config, NetworkSettings
    from seqdsd.tasks import BatchSettings

    def make(data: Path, out: Path, **changes: Any) -> Config:
        settings: dict[str, Any] = {
            "iters": 1,
            "epochs": (2, 1, 1),
            "hidden_size": 32,
            "learning_rates": (2e-2, 1e-2, 5e-3),
            "sparsities": (0.5,),
            "device": "cpu",
            "network": NetworkSettings(batch_norm=True),
            "optimizer": NesterovSettings(momentum=0.9),
            "batches": BatchSettings(max_batch_seconds=4.0, num_workers=0),
        }
        return Config(data=data, out=out, **{**settings, **changes})

    return make


@pytest.fixture
def tone_corpus(tmp_path, write_tone_corpus) -> ToneCorpus:
    """A corpus of a test's own."""
    return write_tone_corpus(tmp_path / "tones")
