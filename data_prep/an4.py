"""CMU AN4 (the census database): a small corpus of read digits, letters and commands, free for any purpose.

Three forms are understood: the official release in raw PCM, the official release in NIST SPHERE, and a
folder with ``train.tsv`` and ``test.tsv`` beside FLAC files. The corpus has no dev set; train speakers are
held out for it.
"""

import csv
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
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

from seqdsd.audio import encode_flac_samples
from seqdsd.records import write_atomically

OFFICIAL_UTTERANCES = {"train": 948, "test": 130}
OFFICIAL_TEST_WORDS = 773
RAW_SAMPLE_RATE_HZ = 16_000
_MIN_UTTERANCES_OF_A_DEV_SPEAKER = 5
_TSV_COLUMNS = ["utt_id", "speaker", "path", "seconds", "text"]


def main(corpus: CorpusFolder, out: OutFolder, *, dev_speakers: int = 8, seed: int = 0) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl for CMU AN4.

    Example: python data_prep/an4.py ~/corpora/an4 data/an4

    Args:
        corpus: The unpacked release (the folder with etc/ and wav/), or one with train.tsv, test.tsv and
            FLAC.
        out: Folder for the manifests. Raw PCM has no header, so it is written again as FLAC to OUT/audio;
            other audio is read where it lies.
        dev_speakers: How many train speakers, of those with at least 5 utterances, are held out as the dev
            set.
        seed: Which speakers those are.
    """
    train = read_split(corpus, "train", out)
    test = read_split(corpus, "test", out)
    for name, recordings in (("train", train), ("test", test)):
        if len(recordings) != OFFICIAL_UTTERANCES[name]:
            warn(
                f"{name} has {len(recordings)} utterances, the official release {OFFICIAL_UTTERANCES[name]}: "
                "scores will not compare with published ones."
            )
    train, dev = hold_out_speakers(train, dev_speakers, seed=seed)
    splits = {"train": train, "dev": dev, "test": test}
    refuse_shared_speakers(splits)
    written = write_splits(splits, out)
    num_words = sum(len(utterance.text.split()) for utterance in written["test"].utterances)
    if num_words != OFFICIAL_TEST_WORDS:
        warn(f"the test set has {num_words} words, the official one {OFFICIAL_TEST_WORDS}.")


def read_split(corpus: Path, name: str, out: Path) -> list[Recording]:
    """Read 'train' or 'test' in whichever form the corpus has.

    Raises:
        ValueError: If the corpus has neither form, or a list and its transcripts disagree.
    """
    if (corpus / f"{name}.tsv").is_file():
        return list(_read_tsv(corpus, name))
    if (corpus / "etc" / f"an4_{name}.fileids").is_file():
        return list(_read_official(corpus, name, out))
    raise ValueError(
        f"{corpus}: neither {name}.tsv nor etc/an4_{name}.fileids is there. Name the folder unpacked from "
        " an4_raw.littleendian.tar.gz or an4_sphere.tar.gz."
    )


def hold_out_speakers(
    train: list[Recording], num_speakers: int, *, seed: int
) -> tuple[list[Recording], list[Recording]]:
    """Split the training recordings into (train, dev) by speaker; the same seed gives the same split.

    Raises:
        ValueError: If there are not enough speakers with 5 utterances or more.
    """
    counts = Counter(recording.speaker for recording in train)
    eligible = sorted(
        speaker
        for speaker, count in counts.items()
        if speaker is not None and count >= _MIN_UTTERANCES_OF_A_DEV_SPEAKER
    )
    if not 0 < num_speakers <= len(eligible) or num_speakers >= len(counts):
        raise ValueError(
            f"--dev-speakers is {num_speakers}, but {len(eligible)} of the {len(counts)} train speakers have "
            f"{_MIN_UTTERANCES_OF_A_DEV_SPEAKER} utterances or more. Hold out at least 1, and leave some."
        )
    held_out = set(random.Random(seed).sample(eligible, num_speakers))
    return (
        [recording for recording in train if recording.speaker not in held_out],
        [recording for recording in train if recording.speaker in held_out],
    )


def _read_tsv(corpus: Path, name: str) -> Iterator[Recording]:
    """Read the FLAC form: one table row for each utterance."""
    lines = read_lines(corpus / f"{name}.tsv")
    header = next(lines, ("", ""))[1].split("\t")
    if header != _TSV_COLUMNS:
        raise ValueError(
            f"{corpus / name}.tsv:1: the columns are {header}, expected {_TSV_COLUMNS}. Is this AN4's table?"
        )
    for source, line in lines:
        row = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
        if len(row) != len(_TSV_COLUMNS):
            raise ValueError(f"{source}: {len(row)} columns, expected {len(_TSV_COLUMNS)}. Correct the line.")
        id_, speaker, path, _, text = row
        yield Recording(id_, corpus / path, text, speaker, source)


def _read_official(corpus: Path, name: str, out: Path) -> Iterator[Recording]:
    """Read the official form: file ids such as ``an4_clstk/fash/an251-fash-b``, and transcripts."""
    transcripts = _read_transcripts(corpus / "etc" / f"an4_{name}.transcription")
    for source, file_id in read_lines(corpus / "etc" / f"an4_{name}.fileids"):
        parts = file_id.split("/")
        if len(parts) < 2 or parts[-1] not in transcripts:
            raise ValueError(
                f"{source}: no transcript for {file_id!r} in an4_{name}.transcription. Fetch it again."
            )
        speaker, id_ = parts[-2:]
        audio_path = _readable_audio(corpus / "wav" / file_id, out / "audio" / name / speaker, source)
        yield Recording(id_, audio_path, transcripts[id_], speaker, source)


def _read_transcripts(path: Path) -> dict[str, str]:
    """Read lines such as ``<s> GO </s> (an253-fash-b)``; test transcripts have no ``<s>``."""
    transcripts = {}
    for source, line in read_lines(path):
        match = re.fullmatch(r"(?:<s> )?(.*?)(?: </s>)? *\((\S+)\)", line)
        if match is None:
            raise ValueError(f"{source}: {line!r} does not end in '(file id)'. Fetch the corpus again.")
        transcripts[match[2]] = match[1]
    return transcripts


def _readable_audio(stem: Path, folder: Path, source: str) -> Path:
    """Return the SPHERE file where there is one; else convert the raw file into ``folder``."""
    sphere = stem.with_name(stem.name + ".sph")
    raw = stem.with_name(stem.name + ".raw")
    if sphere.is_file():
        return sphere
    if not raw.is_file():
        raise ValueError(f"{source}: neither {sphere} nor {raw.name} exists. Is the corpus complete?")
    content = raw.read_bytes()
    if not content or len(content) % 2:
        raise ValueError(
            f"{source}: {raw} has {len(content)} bytes, not whole 16-bit samples. Fetch it again."
        )
    flac = folder / f"{stem.name}.flac"
    samples = np.frombuffer(content, dtype="<i2").astype(np.int16)
    write_atomically(flac, encode_flac_samples(samples, RAW_SAMPLE_RATE_HZ))
    return flac


if __name__ == "__main__":
    run_script(main)
