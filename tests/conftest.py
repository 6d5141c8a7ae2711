"""The corpus that most tests run on: words spelt in tones, one pitch a letter, made in code."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

SAMPLE_RATE_HZ = 16_000
LETTER_SECONDS = 0.06
GAP_SECONDS = 0.02
WORDS = ("bad", "cab", "fed", "age", "hag", "dab", "beef", "egg")


def letter_tone(letter: str) -> np.ndarray:
    """A letter's pitch for 60 ms (a space is silence), then a short gap, so that doubled letters can be told apart."""
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
def write_tone_corpus() -> Callable[[Path], ToneCorpus]:
    """Writes 24 training utterances of the eight words, and 6 of the same sentences each, spoken anew, for dev and test."""

    def write(folder: Path) -> ToneCorpus:
        corpus, texts = ToneCorpus(folder), random_texts(48, seed=1)
        corpus.write("train", texts, seed=1)
        corpus.write("dev", texts[:6], seed=2)
        corpus.write("test", texts[6:12], seed=3)
        return corpus

    return write


@pytest.fixture
def tone_corpus(tmp_path, write_tone_corpus) -> ToneCorpus:
    """A corpus of a test's own."""
    return write_tone_corpus(tmp_path / "tones")
