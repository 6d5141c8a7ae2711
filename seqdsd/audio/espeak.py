"""eSpeak NG as a voice: text in, 16-bit samples out, through ctypes and the ``espeakng-loader`` wheel.

The library keeps one global state, draws noise from two random generators and carries state from one
utterance to the next. `speak` therefore starts a fresh process for each call and seeds both, which makes its
bytes a function of its arguments alone. That process runs this file as a script, so only the standard library
and the wheel are imported here: a start takes a tenth of a second, without torch and the rest of the package.

Left out: resampling, noise, files (see `seqdsd.data.synthetic`), and SSML.
"""

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import espeakng_loader

SAMPLE_RATE_HZ = 22_050

# Values of enums and flags in eSpeak NG's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH = 1, 2, 3
_UTF8_WITH_PHONEMES = 0x101
# Half of the default: at 100 some variants (klatt4, Gene) reach full scale, and eSpeak clips them.
_VOLUME_PERCENT = 50

_BAD_REQUEST = 3  # exit status of the child for a ValueError; 1 and 2 are Python's own

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to say and how."""

    text: str
    """Plain text, in which ``[[…]]`` gives phonemes in eSpeak's mnemonics."""

    words_per_minute: int = 175
    """In [80, 450]."""

    pitch: int = 50
    """In [0, 99]; 50 is the voice's own."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("Prompt.text is empty; give eSpeak something to say")
        if not 80 <= self.words_per_minute <= 450:
            raise ValueError(f"Prompt.words_per_minute must lie in [80, 450], got {self.words_per_minute}")
        if not 0 <= self.pitch <= 99:
            raise ValueError(f"Prompt.pitch must lie in [0, 99], got {self.pitch}")


def spell(letters: Sequence[str]) -> str:
    """Input that makes eSpeak say each letter's name.

    Every letter alone is read as its name, in all English voices and next to any other letter, except "a",
    which is read as the article; its name is given as a phoneme.
    """
    return " ".join("[['eI]]" if letter == "a" else letter for letter in letters)


def speak(prompts: Sequence[Prompt], *, voice: str, seed: int) -> list[bytes]:
    """Synthesise the prompts one after the other in a fresh process, with its noise seeded.

    Args:
        prompts: At least one; the order matters, as eSpeak carries state from one to the next.
        voice: ``language+variant`` as eSpeak names them, such as ``en-us+f2``.
        seed: In [0, 2**31); the same arguments give the same bytes on one platform and eSpeak version.

    Returns:
        For each prompt mono 16-bit samples in native byte order at `SAMPLE_RATE_HZ`.

    Raises:
        ValueError: If the voice is unknown; the message lists those that exist.
        RuntimeError: If eSpeak cannot be loaded, or crashes.
    """
    request = {"voice": voice, "seed": seed, "prompts": [asdict(prompt) for prompt in prompts]}
    # -P: or this file's neighbours would come before the standard library on the child's path.
    child = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve())],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
    )
    message = child.stderr.decode(errors="replace").strip()
    if child.returncode == _BAD_REQUEST:
        raise ValueError(message)
    if child.returncode != 0:
        raise RuntimeError(f"eSpeak failed with voice {voice!r} (exit status {child.returncode}): {message}")
    return _unpack(child.stdout)


class Espeak:
    """The library in this process, with one voice. Its state is global: do not hold two at once.

    Raises:
        OSError: If the shared library or its data cannot be loaded.
        ValueError: If the voice is unknown.
    """

    def __init__(self, voice: str) -> None:
        self._library = _load_library()
        self._chunks: list[bytes] = []
        data_path = espeakng_loader.get_data_path()
        rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _DO_NOT_EXIT)
        if rate_hz != SAMPLE_RATE_HZ:
            raise OSError(f"eSpeak's data in {data_path} gave {rate_hz} Hz, not {SAMPLE_RATE_HZ}. {_REMEDY}")
        self._callback = _Callback(self._collect)  # kept: ctypes does not hold on to it for C
        self._library.espeak_SetSynthCallback(self._callback)
        self._set_voice(voice)

    def seed(self, seed: int) -> None:
        """Seed both of eSpeak's sources of noise: its own generator and, for Klatt voices, C ``rand``."""
        # After espeak_Initialize, which seeds the first with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        # CDLL(None) is the C library of this process; Windows has no such handle.
        ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).srand(ctypes.c_uint(seed))

    def say(self, prompt: Prompt) -> bytes:
        """Mono 16-bit samples, native byte order, at `SAMPLE_RATE_HZ`."""
        self._chunks.clear()
        settings = {_RATE: prompt.words_per_minute, _VOLUME: _VOLUME_PERCENT, _PITCH: prompt.pitch}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._synthesise(prompt.text)
        if not self._chunks:
            raise RuntimeError(f"eSpeak said nothing for {prompt.text!r}")
        return b"".join(self._chunks)

    def phonemes(self, text: str) -> str:
        """How this voice reads one clause (no punctuation): eSpeak's mnemonics, a space between words."""
        self._synthesise(" ")  # espeak_TextToPhonemes reads [[…]] only if the last synthesis was told to
        clause = ctypes.c_char_p(text.encode())
        return self._library.espeak_TextToPhonemes(ctypes.byref(clause), 1, 0).decode().strip()

    def _synthesise(self, text: str) -> None:
        data = text.encode() + b"\0"
        status = self._library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8_WITH_PHONEMES, None, None)
        if status != 0:
            raise RuntimeError(f"espeak_Synth returned {status} for {text!r}")

    def _collect(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def _set_voice(self, voice: str) -> None:
        # eSpeak takes an unknown variant in silence, so both halves are looked up here.
        language, _, variant = voice.partition("+")
        variants_path = Path(espeakng_loader.get_data_path(), "voices", "!v")
        variants = sorted(path.name for path in variants_path.iterdir())
        languages = self._languages()
        if language not in languages:
            raise ValueError(f"eSpeak has no voice {voice!r}; languages: {', '.join(languages)}")
        if "+" in voice and variant not in variants:
            raise ValueError(
                f"eSpeak has no variant {variant!r} (voice {voice!r}); variants: {', '.join(variants)}"
            )
        status = self._library.espeak_SetVoiceByName(voice.encode())
        if status != 0:
            raise RuntimeError(f"espeak_SetVoiceByName returned {status} for {voice!r}")

    def _languages(self) -> list[str]:
        voices = self._library.espeak_ListVoices(None)
        names: list[str] = []
        while voices[len(names)]:
            names.append(voices[len(names)].contents.identifier.decode().rpartition("/")[2].lower())
        return sorted(names)


def espeak_version() -> str:
    """The library's own version, such as ``1.52.0``."""
    return _load_library().espeak_Info(None).decode()


class _Voice(ctypes.Structure):
    """The first fields of ``espeak_VOICE``; it is only ever read through a pointer."""

    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p)]


_REMEDY = (
    "Reinstall it with `pip install --force-reinstall espeakng-loader`, or give your own corpus with --data."
)


def _load_library() -> ctypes.CDLL:
    path = espeakng_loader.get_library_path()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise OSError(f"cannot load eSpeak NG from {path}: {error}. {_REMEDY}") from error
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    return library


def _unpack(stream: bytes) -> list[bytes]:
    """Undo `_serve`'s framing: a 4-byte length before each block."""
    blocks, start = [], 0
    while start < len(stream):
        (length,) = struct.unpack_from("<I", stream, start)
        start += 4 + length
        blocks.append(stream[start - length : start])
    return blocks


def _serve() -> None:
    """The child of `speak`: one JSON request on stdin, framed samples on stdout."""
    request = json.load(sys.stdin)
    try:
        engine = Espeak(request["voice"])
        engine.seed(request["seed"])
        for prompt in request["prompts"]:
            samples = engine.say(Prompt(**prompt))
            sys.stdout.buffer.write(struct.pack("<I", len(samples)) + samples)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(_BAD_REQUEST)
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _serve()
