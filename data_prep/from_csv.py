"""Tables of audio and transcripts: DeepSpeech's CSV files and Common Voice's TSV files.

Which of the two a file is shows in its columns: ``wav_filename`` and ``transcript``, or ``path`` and
``sentence``. Any corpus that can be written as such a table comes in this way.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from writing import (
    CorpusFolder,
    OutFolder,
    Recording,
    names_of_test_splits,
    refuse_shared_speakers,
    run_script,
    warn,
    write_splits,
)

from seqdsd.text import ENGLISH_ALPHABET


def main(
    corpus: CorpusFolder,
    out: OutFolder,
    *,
    train: tuple[Path, ...] = (),
    dev: tuple[Path, ...] = (),
    test: tuple[Path, ...] = (),
    alphabet: str = ENGLISH_ALPHABET,
    on_bad_data: Literal["error", "skip"] = "error",
) -> None:
    """Write manifests from DeepSpeech CSV or Common Voice TSV files.

    Example: python data_prep/from_csv.py ~/corpora/cv-corpus-17.0/cy data/cv-cy

    Example: python data_prep/from_csv.py ~/corpora/mine data/mine --train a.csv b.csv --dev d.csv --test
    t.csv

    Args:
        corpus: The folder with the tables. Common Voice clips lie in its clips/; a wav_filename is relative
            to its table.
        out: Folder for the manifests. Audio (wav, flac, mp3, …) is read where it lies.
        train: Tables to train on, relative to CORPUS. Not given: train.tsv or train.csv, if there is one.
        dev: Tables of the dev set, found in the same way.
        test: Tables of test sets, found in the same way. Several get a manifest each, test_NAME.jsonl.
        alphabet: The characters that transcripts are folded into.
        on_bad_data: error stops at unreadable audio or an empty transcript, skip leaves them out and lists
            them.
    """
    tests = _tables(corpus, "test", test)
    tables = {"train": _tables(corpus, "train", train), "dev": _tables(corpus, "dev", dev)}
    tables |= {
        name: [path]
        for name, path in zip(names_of_test_splits([path.stem for path in tests]), tests, strict=True)
    }
    splits = {
        name: [recording for path in paths for recording in read_table(path, corpus)]
        for name, paths in tables.items()
        if paths
    }
    if not splits:
        raise ValueError(f"{corpus}: no train, dev or test table. Name them with --train, --dev and --test.")
    try:
        refuse_shared_speakers(splits)
    except ValueError as error:
        warn(str(error))  # the user's own splits may be meant so
    write_splits(splits, out, alphabet=alphabet, on_bad_data=on_bad_data)


def read_table(path: Path, corpus: Path) -> Iterator[Recording]:
    """Read the rows of one table.

    Raises:
        ValueError: If the file cannot be read, lacks a column, or has a row with too few columns.
    """
    is_tsv = path.suffix.lower() == ".tsv"
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            # Common Voice writes quotes as they are.
            rows = csv.DictReader(
                file,
                delimiter="\t" if is_tsv else ",",
                quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
            )
            audio_column, text_column = _columns(rows.fieldnames or [], path)
            has_clips = audio_column == "path" and (corpus / "clips").is_dir()
            folder = corpus / "clips" if has_clips else path.parent
            for row in rows:
                source = f"{path}:{rows.line_num}"
                name, text = row[audio_column], row[text_column]
                if not name or text is None:
                    raise ValueError(f"{source}: too few columns. Correct or remove the line.")
                yield _recording(
                    name, text, row.get("client_id"), folder=folder, corpus=corpus, source=source
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Give a CSV or TSV file in UTF-8.") from error


def _tables(corpus: Path, split: str, given: tuple[Path, ...]) -> list[Path]:
    """The tables of a split: those given, else the one with the usual name."""
    if given:
        return [corpus / path for path in given]
    usual = [corpus / f"{split}.tsv", corpus / f"{split}.csv"]
    return [path for path in usual if path.is_file()][:1]


def _columns(found: Sequence[str], path: Path) -> tuple[str, str]:
    """The names of the audio and transcript columns."""
    for audio_column, text_column in (("wav_filename", "transcript"), ("path", "sentence")):
        if audio_column in found and text_column in found:
            return audio_column, text_column
    raise ValueError(
        f"{path}:1: the columns are {', '.join(found) or 'none'}. Needed are wav_filename and transcript "
        "(DeepSpeech), or path and sentence (Common Voice)."
    )


def _recording(
    name: str, text: str, speaker: str | None, *, folder: Path, corpus: Path, source: str
) -> Recording:
    """Find the audio of one row, and call the utterance after its path below the corpus."""
    audio_path = folder / name
    if not audio_path.suffix:
        audio_path = audio_path.with_suffix(".mp3")  # which early Common Voice releases leave out
    below = audio_path.relative_to(corpus) if audio_path.is_relative_to(corpus) else audio_path
    parts = [part for part in below.with_suffix("").parts if part not in ("clips", "/")]
    return Recording("-".join(parts), audio_path, text, speaker or None, source)


if __name__ == "__main__":
    run_script(main)
