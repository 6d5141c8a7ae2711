"""Wall Street Journal (LDC93S6A WSJ0 and LDC94S13A WSJ1), with the splits of the DSD paper's Table 7.

Train is si284 (or si84), dev is dev93, the tests are eval92 (WSJ'92) and eval93 (WSJ'93). Discs in folders
of their own (``11-13.1/wsj0/…``) and a merged tree (``wsj0/…``, ``wsj1/…``) are read alike, in upper or
lower case: files are found by their path below ``wsj0`` or ``wsj1``, so the disc numbers in the index files
are not needed (those of eval93 name the wrong disc). Which index makes which set was looked up in Kaldi's
egs/wsj/s5/local/wsj_data_prep.sh. Language-model texts are left out.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from writing import (
    CorpusFolder,
    OutFolder,
    Recording,
    read_lines,
    refuse_shared_speakers,
    run_script,
    warn,
    write_splits,
)

_SI84 = "wsj0/doc/indices/train/tr_s_wv1.ndx"
_INDICES = {
    "si84": (_SI84,),
    "si284": ("wsj1/doc/indices/si_tr_s.ndx", _SI84),
    "dev93": ("wsj1/doc/indices/h1_p0.ndx",),
    "eval92": ("wsj0/doc/indices/test/nvp/si_et_20.ndx",),
    "eval93": ("wsj1/doc/indices/wsj1/eval/h1_p0.ndx",),
}
OFFICIAL_UTTERANCES = {"si84": 7138, "si284": 37416, "dev93": 503, "eval92": 333, "eval93": 213}
# The index lists this speaker of disc 11-2.1; Kaldi's recipe leaves the entries out, and so do we.
_NOT_IN_TRAIN = "wsj0/si_tr_s/401/"
# Converted files come first, so that a shortened .wv1 beside its .wav does no harm.
_AUDIO_SUFFIXES = (".wav", ".flac", ".wv1")


def main(corpus: CorpusFolder, out: OutFolder, *, train: Literal["si284", "si84"] = "si284") -> None:
    """Write train.jsonl, dev.jsonl (dev93), test_eval92.jsonl and test_eval93.jsonl for WSJ.

    Example: python data_prep/wsj.py ~/corpora/wsj data/wsj

    The LDC's audio is compressed with shorten, which must be undone once, with the LDC's own sph2pipe:
    find ~/corpora/wsj -iname '*.wv1' | while read f; do sph2pipe -p -f wav "$f" "${f%.*}.wav"; done

    Args:
        corpus: A folder with all discs (11-1.1 to 13-34.1), or with wsj0/ and wsj1/.
        out: Folder for the manifests. Audio is read where it lies; a .wav or .flac beside a .wv1 is
            preferred.
        train: si284 (81 hours, WSJ0 and WSJ1) or si84 (15 hours, WSJ0).
    """
    prepare(corpus, out, train=train, expected=OFFICIAL_UTTERANCES)


def prepare(corpus: Path, out: Path, *, train: Literal["si284", "si84"], expected: Mapping[str, int]) -> None:
    """Write the manifests, with ``expected`` utterances in each set.

    Raises:
        ValueError: If a dev or test set has another number of utterances, or a file is missing. A training
            set of another size is only warned of.
    """
    tree = Tree.scan(corpus)
    sets = {name: read_set(tree, name) for name in (train, "dev93", "eval92", "eval93")}
    for name, recordings in sets.items():
        if len(recordings) == expected[name]:
            continue
        message = f"{name} has {len(recordings)} utterances, expected {expected[name]}"
        if name != train:
            raise ValueError(
                f"{corpus}: {message}. Scores would not compare; check that every disc is there."
            )
        warn(f"{message}: is a disc missing?")
    splits = {
        "train": sets[train],
        "dev": sets["dev93"],
        "test_eval92": sets["eval92"],
        "test_eval93": sets["eval93"],
    }
    refuse_shared_speakers(splits)
    write_splits(splits, out)


@dataclass(frozen=True)
class Tree:
    """Where each file of the corpus lies."""

    root: Path
    files: Mapping[str, Path]
    """By the lower-case path from ``wsj0`` or ``wsj1`` on."""

    @classmethod
    def scan(cls, root: Path) -> "Tree":
        """Walk the corpus once and note audio, transcripts and indices."""
        files: dict[str, Path] = {}
        for folder, _, names in sorted(os.walk(root, followlinks=True)):
            for name in names:
                key = _key(os.path.relpath(os.path.join(folder, name), root))
                if key is not None and key.endswith((*_AUDIO_SUFFIXES, ".dot", ".ndx")):
                    files.setdefault(key, Path(folder) / name)
        return cls(root, files)

    def find(self, key: str, source: str) -> Path:
        """Return the file of a key.

        Raises:
            ValueError: If there is none.
        """
        if key not in self.files:
            raise ValueError(f"{source}: {key} is not below {self.root}. Is a disc missing?")
        return self.files[key]

    def find_audio(self, stem: str, source: str) -> Path:
        """Return the audio of a key without extension.

        Raises:
            ValueError: If there is none.
        """
        for suffix in _AUDIO_SUFFIXES:
            if stem + suffix in self.files:
                return self.files[stem + suffix]
        return self.find(stem + ".wv1", source)


def read_set(tree: Tree, name: str) -> list[Recording]:
    """Read the utterances of one set, in the order of their ids.

    Raises:
        ValueError: If an index, a recording or a transcript is missing or damaged.
    """
    transcripts = _Transcripts(tree)
    recordings = []
    for index in _INDICES[name]:
        for source, line in read_lines(tree.find(index, str(tree.root))):
            if line.startswith(";"):
                continue
            stem = _stem_of_entry(line, source)
            if not stem.startswith(_NOT_IN_TRAIN):
                id_ = stem.rpartition("/")[2]
                audio_path = tree.find_audio(stem, source)
                recordings.append(Recording(id_, audio_path, transcripts.find(id_, source), id_[:3], source))
    return sorted(recordings, key=lambda recording: recording.id)


class _Transcripts:
    """Raw transcripts by utterance id, read from the ``.dot`` file of a session when first asked for."""

    def __init__(self, tree: Tree) -> None:
        # 440c0401 is utterance 01 of session 440c04, whose transcripts are in 440c0400.dot.
        self._dots: dict[str, list[Path]] = {}
        for key, path in tree.files.items():
            if key.endswith("00.dot"):
                self._dots.setdefault(key.rpartition("/")[2].removesuffix("00.dot"), []).append(path)
        self._texts: dict[str, str] = {}

    def find(self, id_: str, source: str) -> str:
        """Return the transcript with its markup removed."""
        for path in self._dots.pop(id_[:6], []):
            self._read(path)
        if id_ not in self._texts:
            raise ValueError(f"{source}: no transcript of {id_} in any {id_[:6]}00.dot. Is a disc missing?")
        return remove_markup(self._texts[id_])

    def _read(self, path: Path) -> None:
        """Read lines such as ``The words (440C0401)``."""
        for source, line in read_lines(path):
            match = re.fullmatch(r"(.*)\((\w{8})\)", line)
            if match is None:
                raise ValueError(f"{source}: {line!r} does not end in '(utterance id)'. Copy the disc again.")
            self._texts[match[2].lower()] = match[1]


def remove_markup(transcript: str) -> str:
    """Remove what a ``.dot`` transcript says beside the words.

    Noises (``[door_slam]``, ``[<ls]``, ``<NOISE>``) go; words in ``<…>`` (deleted by the speaker, yet
    spoken) and in ``*…*`` (mispronounced) stay without the marks; so do words marked as stressed (``!``),
    lengthened (``:``) or cut off (``~``). Isolated ``.``, ``-`` and ``~`` (pauses, truncation) go.
    Punctuation that was spoken keeps its word: ``,COMMA`` is "COMMA". Periods of abbreviations go: ``MR.``,
    ``U. S.``

    Reference: the CSR-WSJ0 Detailed Orthographic Transcription specification (LDC93S6C, ``dot_spec.txt``) for
    escapes, noises and abbreviations; the marks are those that Kaldi's WSJ recipe meets in the transcripts.
    """
    transcript = re.sub(r"\[[^\]\s]*\]|<noise>", " ", transcript, flags=re.IGNORECASE)
    transcript = transcript.replace("\\", "")
    words = (_strip_marks(word) for word in transcript.split())
    return " ".join(word for word in words if word)


def _strip_marks(word: str) -> str:
    """Return one word without marks and spoken-punctuation signs; empty if it is only a mark."""
    word = re.sub(r"[<>*!:~.]", "", word)
    if re.fullmatch(r"'[\w-]*(QUOTE|APOSTROPHE)", word.upper()):
        return word[1:]
    # An apostrophe may start a word ('TIS); any other sign before a letter is the sign whose name follows.
    return re.sub(r"^[^\w']+(?=[A-Za-z])|^[^\w]+$", "", word)


def _key(relative_path: str) -> str | None:
    """The lower-case path from ``wsj0`` or ``wsj1`` on, below the disc's folder where there is one."""
    parts = relative_path.lower().split(os.sep)
    discs = [place for place, part in enumerate(parts) if re.fullmatch(r"\d+[-_]\d+[._]\d+", part)]
    for place in range(discs[-1] + 1 if discs else 0, len(parts)):
        if parts[place] in ("wsj0", "wsj1"):
            return "/".join(parts[place:])
    return None


def _stem_of_entry(line: str, source: str) -> str:
    """Turn ``11_13_1:wsj0/si_et_20/440/440c0401.wv1`` into its key without extension."""
    match = re.fullmatch(r"\d+_\d+_\d+: */?(wsj[01]/\S+/\w{8})(?:\.wv1)?", line.lower())
    if match is None:
        raise ValueError(f"{source}: {line!r} is not 'DISC:wsj0/…/UTTERANCE.wv1'. Copy the disc again.")
    return match[1]


if __name__ == "__main__":
    run_script(main)
