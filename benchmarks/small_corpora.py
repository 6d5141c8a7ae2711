"""The corpora of ``out_of_the_box``, each made once into the cache: manifests, and audio where it is another's.

What is in ``--data``: ``an4/`` and ``speechocean762/``, as data_prep/ and their own tables have them.
"""

import csv
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torchaudio.functional import resample

from seqdsd.audio import audio_seconds, encode_flac_samples, read_audio
from seqdsd.audio.espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from seqdsd.audio.espeak import Prompt, speak
from seqdsd.data import Utterance, read_manifest, write_manifest
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.data.synthetic.cache import cached_corpus

SPLITS = ("train", "dev", "test")
VOICE = "en-us+m1"
"""Who speaks in ``one-voice``."""
DIGITS = "zero one two three four five six seven eight nine".split()
DIGIT_VOICES = {
    "train": ("en-us+m1", "en+m5", "en-us+f1", "en-gb-x-rp+m8"),
    "dev": ("en-us+m7",),
    "test": ("en-us+f2",),
}
"""Who speaks in ``digits``: others in each split."""
DIGITS_PER_VOICE = 500
DEV_SPEAKERS = 12
"""Of speechocean762's 125 for training."""
VERSION = 1
"""Raise it with any change of what is made."""


@dataclass(frozen=True)
class SmallCorpus:
    """A corpus, by how it is found."""

    folder: Callable[[Path], Path]
    """Its manifests' folder, from the folder of all data."""
    sample_rate_hz: int = 16_000
    """Of its recordings."""


def find_corpus(name: str, data: Path) -> tuple[Path, int]:
    """The folder of a corpus, and its sample rate.

    Args:
        name: One of ``CORPORA``, or a folder with manifests, whose audio is taken to have 16 kHz.
        data: Where AN4 and speechocean762 lie.

    Raises:
        ValueError: If it is neither, or its data are not there.
    """
    if name in CORPORA:
        return CORPORA[name].folder(data), CORPORA[name].sample_rate_hz
    if (Path(name) / "train.jsonl").is_file():
        return Path(name).resolve(), 16_000
    raise ValueError(f"{name}: neither one of {', '.join(CORPORA)} nor a folder with train.jsonl")


def _an4(data: Path) -> Path:
    """As data_prep/an4.py splits it."""

    def build(folder: Path) -> None:
        script = Path(__file__).parents[1] / "data_prep" / "an4.py"
        subprocess.run([sys.executable, str(script), str(data / "an4"), str(folder)], check=True)

    return _made("an4", data, build)


def _an4_8k(data: Path) -> Path:
    """The same audio at 8 kHz."""
    whole = _an4(data)

    def build(folder: Path) -> None:
        for split in SPLITS:
            utterances = read_manifest(whole / f"{split}.jsonl").utterances
            write_manifest(
                folder / f"{split}.jsonl", [_at_8_khz(one, folder / "audio" / split) for one in utterances]
            )

    return _made("an4-8k", data, build)


def _at_8_khz(utterance: Utterance, folder: Path) -> Utterance:
    samples = resample(read_audio(utterance.audio_path, sample_rate_hz=16_000).samples, 16_000, 8_000)
    return _written_at_8_khz(utterance, samples, folder)


def _written_at_8_khz(utterance: Utterance, samples: torch.Tensor, folder: Path) -> Utterance:
    whole_numbers = (32_767 * samples.clamp(-1, 1)).round().to(torch.int16).numpy().astype(np.int16)
    path = folder / f"{utterance.id}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_flac_samples(whole_numbers, 8_000))
    return replace(utterance, audio_path=str(path.absolute()), duration_seconds=len(samples) / 8_000)


def _an4_10(data: Path) -> Path:
    """A tenth of the training utterances."""
    whole = _an4(data)

    def build(folder: Path) -> None:
        for split in SPLITS:
            utterances = read_manifest(whole / f"{split}.jsonl").utterances
            if split == "train":
                utterances = random.Random(0).sample(utterances, round(len(utterances) / 10))
            write_manifest(folder / f"{split}.jsonl", utterances)

    return _made("an4-10", data, build)


def _speechocean762(data: Path) -> Path:
    """Its tables, with some of the training speakers held out."""

    def build(folder: Path) -> None:
        train, test = (_read_table(data / "speechocean762", split) for split in ("train", "test"))
        speakers = sorted({one.speaker or "" for one in train})
        held_out = set(random.Random(0).sample(speakers, DEV_SPEAKERS))
        write_manifest(folder / "train.jsonl", [one for one in train if one.speaker not in held_out])
        write_manifest(folder / "dev.jsonl", [one for one in train if one.speaker in held_out])
        write_manifest(folder / "test.jsonl", test)

    return _made("speechocean762", data, build)


def _read_table(folder: Path, split: str) -> list[Utterance]:
    with open(folder / f"{split}.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Utterance(
            id=row["utt_id"],
            audio_path=str((folder / row["path"]).absolute()),
            duration_seconds=audio_seconds(folder / row["path"]),
            text=row["text"].lower(),
            speaker=row["speaker"],
            source=f"{split}.tsv:{number}",
        )
        for number, row in enumerate(rows, start=2)
    ]


def _digits(_data: Path) -> Path:
    """A word alone in each recording, 0.4 s of it, at 8 kHz: as collections of digits and commands are."""

    def build(folder: Path) -> None:
        for number, (split, voices) in enumerate(DIGIT_VOICES.items()):
            spoken = [one for voice in voices for one in _say_digits(voice, folder / "audio", seed=number)]
            write_manifest(folder / f"{split}.jsonl", spoken)

    key = {"voices": DIGIT_VOICES, "per_voice": DIGITS_PER_VOICE, "version": VERSION}
    return cached_corpus("out-of-the-box-digits", key, build)


def _say_digits(voice: str, folder: Path, *, seed: int) -> list[Utterance]:
    """Each as often as the others, at many speeds, pitches and loudnesses, in noise."""
    rng = np.random.default_rng([seed, *voice.encode()])
    words = [DIGITS[index % len(DIGITS)] for index in range(DIGITS_PER_VOICE)]
    prompts = [
        Prompt(text=word, words_per_minute=int(rng.integers(110, 241)), pitch=int(rng.integers(25, 76)))
        for word in words
    ]
    written = []
    for index, said in enumerate(speak(prompts, voice=voice, seed=seed)):
        utterance = Utterance(f"{voice}-{index:03}", "", 0.0, words[index], voice, source="digits")
        written.append(_written_at_8_khz(utterance, _in_noise(said, rng), folder))
    return written


def _in_noise(said: bytes, rng: np.random.Generator) -> torch.Tensor:
    """What eSpeak said, in 16 bits, from the first loud sample to the last, at 8 kHz, in white noise 15 to 40 dB below.

    Its peak is at 0.1 to 0.9 of full scale.
    """
    samples = torch.frombuffer(bytearray(said), dtype=torch.int16).float()
    samples = resample(samples, ESPEAK_RATE_HZ, 8_000)
    loud = (samples.abs() > 0.01 * samples.abs().max()).nonzero()
    speech = samples[int(loud[0]) : int(loud[-1]) + 1].numpy()
    noise = rng.standard_normal(len(speech)) * speech.std() * 10 ** (-rng.uniform(15, 40) / 20)
    return torch.from_numpy((speech + noise) * rng.uniform(0.1, 0.9) / np.abs(speech + noise).max())


def _made(name: str, data: Path, build: Callable[[Path], None]) -> Path:
    """The corpus in the cache, built if it is not there.

    Raises:
        ValueError: If the data folder does not exist.
    """
    if not data.is_dir():
        raise ValueError(f"{data}: no such folder; --data takes the one with an4/ and speechocean762/")
    key = {"data": str(data.resolve()), "version": VERSION}
    return cached_corpus(f"out-of-the-box-{name}", key, build)


CORPORA: dict[str, SmallCorpus] = {
    "an4": SmallCorpus(_an4),
    "an4-8k": SmallCorpus(_an4_8k, sample_rate_hz=8_000),
    "an4-10": SmallCorpus(_an4_10),
    "embedded": SmallCorpus(lambda data: synthetic_speech(SyntheticSpeech())),
    "speechocean762": SmallCorpus(_speechocean762),
    "digits": SmallCorpus(_digits, sample_rate_hz=8_000),
    "one-voice": SmallCorpus(lambda data: synthetic_speech(SyntheticSpeech(voice=VOICE))),
}
"""By name."""
