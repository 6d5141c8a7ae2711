"""The embedded speech corpus: a small grammar spoken by eSpeak NG voices, made on the spot, with no download.

For trying the whole path from audio to word error rate, and for tests; not a substitute for recorded speech.
Development and test voices are never heard in training. The same `SyntheticSpeech` gives the same bytes with
one version of eSpeak and numpy on one platform, whatever the number of workers: each voice speaks all its
sentences in one fresh process, and all that is random after that has a generator seeded per utterance.

Left out: room acoustics, real noise, natural prosody.
"""

import math
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqdsd.audio import encode_flac_samples
from seqdsd.audio.espeak import SAMPLE_RATE_HZ as ESPEAK_RATE_HZ
from seqdsd.audio.espeak import Prompt, espeak_version, speak, spell
from seqdsd.data.manifest import Utterance, write_manifest
from seqdsd.data.synthetic.cache import cached_corpus
from seqdsd.data.synthetic.progress import progress_bar

SAMPLE_RATE_HZ = 16_000
GENERATOR_VERSION = 1
"""Part of the cache key: raise it with any change that changes the audio or the sentences."""

# Accents and timbres that stay intelligible: no whisper, croak or robot. No timbre (what follows the "+") is
# in two splits. Left out too: variants that crashed eSpeak (Lee) or clip at half volume (antonio).
VOICES: dict[str, tuple[str, ...]] = {
    "train": (
        *("en-us+m1", "en-us+m4", "en-us+Diogo", "en-us+robert", "en-us+f1", "en-us+f4", "en-us+steph"),
        *("en-us+edward", "en-us+Michael", "en-us+m6", "en-us+victor", "en-us+aunty", "en-us+sandro"),
        *(
            "en+m2",
            "en+m5",
            "en+Mike",
            "en+Mario",
            "en+f5",
            "en+belinda",
            "en+paul",
            "en+quincy",
            "en+travis",
        ),
        *("en-gb-x-rp+m8", "en-gb-x-rp+Gene", "en-gb-x-rp+adam", "en-gb-x-rp+Annie"),
    ),
    "dev": ("en-us+m7", "en+f3", "en-gb-x-rp+max", "en-us+Denis"),
    "test": ("en-us+m3", "en-us+f2", "en+Nguyen", "en-gb-x-rp+linda"),
}
SPLITS = tuple(VOICES)

_PEAK = 0.9  # of full scale, before attenuation
_LEAST_PADDING_SECONDS, _MOST_PADDING_SECONDS = 0.05, 0.25

Audio = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SyntheticSpeech:
    """What corpus to make. Equal values mean the same corpus."""

    seed: int = 0
    """Seeds sentences, voices' delivery and noise; in [0, 2**31)."""

    train_utterances: int = 1200
    """Utterances for training, about two seconds each, shared out evenly over the training voices."""

    dev_utterances: int = 100
    """Utterances by the development voices."""

    test_utterances: int = 200
    """Utterances by the test voices."""

    least_snr_db: float = 20.0
    """Loudest noise, as a signal-to-noise ratio in dB."""

    most_snr_db: float = 40.0
    """Faintest noise, as a signal-to-noise ratio in dB."""

    most_attenuation_db: float = 12.0
    """Gain varies evenly between this much attenuation in dB and none."""

    voice: str | None = None
    """One eSpeak voice, such as en-us+m1, that speaks in all splits instead of those of ``VOICES``."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"SyntheticSpeech.seed must lie in [0, 2**31), got {self.seed}")
        for split in SPLITS:
            size = self.num_utterances(split)
            if size < 1:
                raise ValueError(f"SyntheticSpeech.{split}_utterances must be at least 1, got {size}")
        if not 0 <= self.least_snr_db <= self.most_snr_db < math.inf:
            raise ValueError(
                "SyntheticSpeech needs 0 <= least_snr_db <= most_snr_db < inf, "
                f"got {self.least_snr_db} and {self.most_snr_db}"
            )
        if not 0 <= self.most_attenuation_db <= 40:
            raise ValueError(
                f"SyntheticSpeech.most_attenuation_db must lie in [0, 40], got {self.most_attenuation_db}"
            )

    def num_utterances(self, split: str) -> int:
        """Utterances asked for in ``train``, ``dev`` or ``test``."""
        sizes = (self.train_utterances, self.dev_utterances, self.test_utterances)
        return sizes[SPLITS.index(split)]


def synthetic_speech(
    spec: SyntheticSpeech, cache_dir: Path | None = None, *, workers: int | None = None
) -> Path:
    """Make the corpus, or find it in the cache.

    Args:
        spec: What to make.
        cache_dir: Where corpora are kept; by default `default_cache_dir`.
        workers: Voices made at once, by default one per processor; has no effect on the bytes.

    Returns:
        A folder with ``train.jsonl``, ``dev.jsonl``, ``test.jsonl`` and ``audio/`` (16 kHz, 16-bit FLAC). It
        appears complete or not at all; two processes that make it at once end with the same one.

    Raises:
        OSError: If the cache cannot be written, or eSpeak NG not be loaded; the message says what to do.
        RuntimeError: If eSpeak NG crashes.
    """
    # Without what is not asked for: corpora made before there was `voice` are found again.
    asked = {name: value for name, value in asdict(spec).items() if value is not None}
    key = {"spec": asked, "generator": GENERATOR_VERSION, "espeak": espeak_version()}
    num_workers = workers or os.cpu_count() or 1
    return cached_corpus(
        "synthetic-speech", key, lambda folder: _build(spec, folder, num_workers), cache_dir=cache_dir
    )


# The plan: who says what.


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One utterance before it is spoken."""

    split: str
    index: int
    voice: str
    text: str
    prompt: Prompt

    @property
    def id(self) -> str:
        return f"{self.split}-{self.index:05d}"


def _plan(spec: SyntheticSpeech) -> list[_Line]:
    """All lines of all splits; no dev or test sentence occurs in train."""
    lines: list[_Line] = []
    heard: frozenset[str] = frozenset()
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([spec.seed, number])
        for index in range(spec.num_utterances(split)):
            text, spoken = _draw_unheard(rng, heard)
            prompt = Prompt(
                text=spoken, words_per_minute=int(rng.integers(130, 181)), pitch=int(rng.integers(40, 61))
            )
            voice = spec.voice or VOICES[split][index % len(VOICES[split])]
            lines.append(_Line(split=split, index=index, voice=voice, text=text, prompt=prompt))
        if split == "train":
            heard = frozenset(line.text for line in lines)
    return lines


def _draw_unheard(rng: np.random.Generator, heard: frozenset[str]) -> tuple[str, str]:
    while (sentence := draw_sentence(rng))[0] in heard:
        pass
    return sentence


# The grammar.

_DIGITS = "zero one two three four five six seven eight nine".split()
_MONTHS = "january february march april may june july august september october november december".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_DAYS = [*_ORDINALS, *(f"twenty {day}" for day in _ORDINALS[:9]), "thirtieth", "thirty first"]
_SLOTS: dict[str, list[str]] = {
    "switch": ["on", "off"],
    "room": "kitchen bedroom garden office".split(),
    "device": "light heater fan radio".split(),
    "name": "anna peter maria david susan george".split(),
    "number": [*_DIGITS[2:], "ten", "twelve", "fifteen", *_TENS[:5]],
    "unit": ["seconds", "minutes", "hours"],
    "day": "monday tuesday wednesday thursday friday saturday sunday".split(),
}
_COMMANDS = (
    "turn {switch} the {room} {device}",
    "is the {room} {device} {switch}",
    "set a timer for {number} {unit}",
    "call {name} in {number} {unit}",
    "don't call {name} on {day}",
)


def draw_sentence(rng: np.random.Generator) -> tuple[str, str]:
    """One sentence: spelled letters, digits, a date or a command, each kind as often as the others.

    Returns:
        The transcript (a-z, space and apostrophe; letters stand alone, as in AN4), and the same for eSpeak.
    """
    kind = rng.integers(4)
    if kind == 0:
        return _draw_spelling(rng)
    text = (_draw_digits, _draw_date, _draw_command)[kind - 1](rng)
    return text, text


def _draw_spelling(rng: np.random.Generator) -> tuple[str, str]:
    letters = [chr(ord("a") + code) for code in rng.integers(26, size=rng.integers(2, 6))]
    digits = [_DIGITS[digit] for digit in rng.integers(10, size=rng.integers(3))]
    return " ".join(letters + digits), " ".join([spell(letters), *digits])


def _draw_digits(rng: np.random.Generator) -> str:
    return " ".join(_DIGITS[digit] for digit in rng.integers(10, size=rng.integers(3, 7)))


def _draw_date(rng: np.random.Generator) -> str:
    year = f"nineteen {_choose(rng, _TENS)} {_choose(rng, _DIGITS[1:])}"
    return f"{_choose(rng, _MONTHS)} {_choose(rng, _DAYS)} {year}"


def _draw_command(rng: np.random.Generator) -> str:
    template = _choose(rng, _COMMANDS)
    return template.format(**{slot: _choose(rng, words) for slot, words in _SLOTS.items()})


def _choose(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[rng.integers(len(options))]


# Speaking and finishing.


def _build(spec: SyntheticSpeech, folder: Path, workers: int) -> None:
    lines = _plan(spec)
    by_voice = sorted(lines, key=lambda line: line.voice)  # stable: the plan's order within each voice
    for split in SPLITS:
        (folder / "audio" / split).mkdir(parents=True)
    spoken: dict[str, Utterance] = {}
    # Threads: eSpeak runs in processes of its own, and numpy and libsndfile release the interpreter lock.
    pool = ThreadPoolExecutor(max_workers=workers)
    with progress_bar("synthetic speech", len(lines)) as advance:
        try:
            jobs = [
                pool.submit(_speak_voice, spec, voice, list(group), folder, advance)
                for voice, group in groupby(by_voice, key=lambda line: line.voice)
            ]
            for job in as_completed(jobs):
                spoken.update({utterance.id: utterance for utterance in job.result()})
        finally:
            pool.shutdown(cancel_futures=True)
    for split in SPLITS:
        write_manifest(folder / f"{split}.jsonl", [spoken[line.id] for line in lines if line.split == split])


def _speak_voice(
    spec: SyntheticSpeech, voice: str, lines: list[_Line], folder: Path, advance: Callable[[], None]
) -> list[Utterance]:
    """Have one voice say all its lines and write them under ``folder/audio``."""
    seed = zlib.crc32(f"{spec.seed} {voice}".encode()) % 2**31
    spoken = speak([line.prompt for line in lines], voice=voice, seed=seed)
    utterances = []
    for line, samples in zip(lines, spoken, strict=True):
        audio = _finish(np.frombuffer(samples, np.int16).astype(np.float64), spec, _rng(spec, line))
        path = folder / "audio" / line.split / f"{line.id}.flac"
        path.write_bytes(encode_flac_samples(audio, SAMPLE_RATE_HZ))
        utterances.append(_to_utterance(line, path, len(audio)))
        advance()
    return utterances


def _rng(spec: SyntheticSpeech, line: _Line) -> np.random.Generator:
    # 1 + index: numpy pads seeds with zeros, so index 0 would repeat the numbers that drew the sentences.
    return np.random.default_rng([spec.seed, SPLITS.index(line.split), 1 + line.index])


def _to_utterance(line: _Line, path: Path, num_samples: int) -> Utterance:
    return Utterance(
        id=line.id,
        audio_path=os.path.abspath(path),
        duration_seconds=num_samples / SAMPLE_RATE_HZ,
        text=line.text,
        speaker=line.voice,
        source="synthetic speech",
    )


def _finish(speech: Audio, spec: SyntheticSpeech, rng: np.random.Generator) -> NDArray[np.int16]:
    """Turn eSpeak's samples into a recording: silence around it, 16 kHz, noise, gain."""
    loud = np.flatnonzero(np.abs(speech) > 1e-3 * np.abs(speech).max())
    speech = speech[loud[0] : loud[-1] + 1]
    rms = np.sqrt(np.mean(speech**2))
    padding_seconds = rng.uniform(_LEAST_PADDING_SECONDS, _MOST_PADDING_SECONDS, size=2)
    padded = np.pad(speech, np.round(padding_seconds * ESPEAK_RATE_HZ).astype(int))
    recording = _to_16_khz(padded)
    snr_db = rng.uniform(spec.least_snr_db, spec.most_snr_db)
    recording += rms * 10 ** (-snr_db / 20) * _noise(len(recording), rng)
    attenuation_db = rng.uniform(0, spec.most_attenuation_db)
    recording *= _PEAK * 10 ** (-attenuation_db / 20) / np.abs(recording).max()
    return np.round(recording * (2**15 - 1)).astype(np.int16)


def _to_16_khz(audio: Audio) -> Audio:
    """Resample by cutting the spectrum: one thread, so the same bytes on any number of them."""
    common = math.gcd(ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
    blocks = -(-len(audio) // (ESPEAK_RATE_HZ // common))
    num_in, num_out = blocks * ESPEAK_RATE_HZ // common, blocks * SAMPLE_RATE_HZ // common
    spectrum = np.fft.rfft(audio, n=num_in)[: num_out // 2 + 1]
    # A short slope instead of an edge at 8 kHz, which would ring.
    slope = np.clip(np.linspace(20, 0, len(spectrum)), 0, 1)
    return np.fft.irfft(spectrum * slope, n=num_out) * (num_out / num_in)


def _noise(num_samples: int, rng: np.random.Generator) -> Audio:
    """White or pink noise, as likely as each other, of root mean square 1."""
    white = rng.standard_normal(num_samples)
    if rng.random() < 0.5:
        return white
    frequencies = np.arange(num_samples // 2 + 1)
    frequencies[0] = 1
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(frequencies), n=num_samples)
    return pink / np.sqrt(np.mean(pink**2))
