"""The eSpeak voice: same bytes for the same seed, letters spoken as letters, clear errors."""

import ctypes
import subprocess
import sys
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from seqdsd.audio import espeak
from seqdsd.audio.espeak import SAMPLE_RATE_HZ, Espeak, Prompt, espeak_version, speak, spell
from seqdsd.data.synthetic import VOICES

LANGUAGES = sorted({voice.partition("+")[0] for voices in VOICES.values() for voice in voices})
PROMPTS = [Prompt(text="turn on the light"), Prompt(text="five six", words_per_minute=140, pitch=58)]

# The letters' names in eSpeak's mnemonics, written by hand; r, u, w and z are left out: accents differ there.
LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqstvxy",
        "eI bi: si: di: i: Ef dZi: eItS aI dZeI keI El Em En oU pi: kju: Es ti: vi: Eks waI".split(),
        strict=True,
    )
)


def bare(phonemes: str) -> str:
    """Without marks of stress and linking, and with Scotland's short "i" and "u" as elsewhere."""
    return phonemes.replace("'", "").replace(",", "").replace(";", "").replace("aI2", "aI")


@pytest.mark.parametrize("voice", ["en-us+f5", "en-us+caleb"], ids=["own generator", "C rand"])
def test_same_seed_same_bytes_and_another_seed_others(voice: str) -> None:
    first = speak(PROMPTS, voice=voice, seed=7)
    assert speak(PROMPTS, voice=voice, seed=7) == first
    assert speak(PROMPTS, voice=voice, seed=8) != first


def test_speech_is_audible_and_as_long_as_its_rate_says() -> None:
    slow, fast = speak(
        [Prompt(text="one two three four five", words_per_minute=rate) for rate in (100, 200)],
        voice="en-us",
        seed=0,
    )
    samples = np.frombuffer(slow, np.int16).astype(float)
    assert 2.0 < len(samples) / SAMPLE_RATE_HZ < 4.0  # five words at 100 a minute: about 3 s
    assert len(fast) < 0.7 * len(slow)
    assert 300 < np.sqrt(np.mean(samples**2)) and np.abs(samples).max() < 2**15 - 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_letters_are_spoken_as_letters(language: str) -> None:
    engine = Espeak(language)
    for letter, name in LETTER_NAMES.items():
        for text in (["b", letter, "t"], [letter, letter], ["a", letter]):
            words = bare(engine.phonemes(spell(text))).split()
            assert len(words) == len(text)
            assert words[1] == name, text


def test_the_article_is_not_the_letter() -> None:
    engine = Espeak("en-us")
    article, letter = engine.phonemes("set a timer").split()[1], engine.phonemes(spell("bat")).split()[1]
    assert bare(article) == "a#" and bare(letter) == "eI"


def test_unknown_voices_are_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"'tlh'; languages: .*en-us"):
        speak(PROMPTS, voice="tlh", seed=0)
    with pytest.raises(ValueError, match=r"variant 'zz'.*variants: .*f2"):
        speak(PROMPTS, voice="en-us+zz", seed=0)


def test_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "/nowhere/libespeak-ng.so")
    with pytest.raises(OSError, match=r"/nowhere/libespeak-ng.so.*pip install.*--data"):
        espeak_version()


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    # In a fresh process: once started, the library stays with the data that it has.
    program = (
        "import espeakng_loader, runpy, sys; espeakng_loader.get_data_path = lambda: sys.argv[1]; "
        "runpy.run_path(sys.argv[2])['Espeak']('en-us')"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path), espeak.__file__]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode != 0 and "OSError" in outcome.stderr
    assert str(tmp_path) in outcome.stderr and "pip install" in outcome.stderr


def test_version_is_the_librarys_own() -> None:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Info.restype = ctypes.c_char_p
    assert espeak_version() == library.espeak_Info(None).decode()
    assert espeak_version()[0].isdigit()


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"text": "a", "words_per_minute": 20}, {"text": "a", "pitch": 100}]
)
def test_bad_prompts_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="Prompt"):
        Prompt(**wrong)
