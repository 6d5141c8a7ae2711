"""LibriSpeech (OpenSLR 12): audio books in FLAC, by the official folders and transcripts.

Archives are unpacked by the user; nothing is downloaded, copied or converted.
"""

from collections.abc import Iterator
from pathlib import Path

from writing import (
    CorpusFolder,
    OutFolder,
    Recording,
    names_of_test_splits,
    read_lines,
    refuse_shared_speakers,
    run_script,
    write_splits,
)


def main(
    corpus: CorpusFolder,
    out: OutFolder,
    *,
    train: tuple[str, ...] = ("train-clean-100",),
    dev: tuple[str, ...] = ("dev-clean",),
    test: tuple[str, ...] = ("test-clean",),
) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl for LibriSpeech.

    Example: python data_prep/librispeech.py ~/LibriSpeech data/librispeech --test test-clean test-other

    Args:
        corpus: The folder that holds train-clean-100, dev-clean …, or the one above it.
        out: Folder for the manifests. Audio is read where it lies.
        train: Subsets to train on, such as train-clean-100 train-clean-360.
        dev: Subsets of the dev set.
        test: Test subsets. Several get a manifest each: test_clean.jsonl, test_other.jsonl.
    """
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    splits = {
        "train": [recording for subset in train for recording in read_subset(root / subset)],
        "dev": [recording for subset in dev for recording in read_subset(root / subset)],
    }
    for name, subset in zip(names_of_test_splits(test), test, strict=True):
        splits[name] = list(read_subset(root / subset))
    refuse_shared_speakers(splits)
    write_splits(splits, out)


def read_subset(folder: Path) -> Iterator[Recording]:
    """Read ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt``, whose lines are an utterance id and the words.

    Raises:
        ValueError: If the folder has no transcript, or a line is not as described.
    """
    paths = sorted(folder.glob("*/*/*.trans.txt"))
    if not paths:
        raise ValueError(
            f"{folder}: no SPEAKER/CHAPTER/*.trans.txt below it. Unpack the subset's archive there, or name "
            "other subsets with --train, --dev and --test."
        )
    for path in paths:
        for source, line in read_lines(path):
            id_, _, words = line.partition(" ")
            if id_.count("-") != 2 or not words:
                raise ValueError(
                    f"{source}: {line!r} is not 'SPEAKER-CHAPTER-NUMBER WORDS'. Unpack it again."
                )
            yield Recording(id_, path.parent / f"{id_}.flac", words, id_.partition("-")[0], source)


if __name__ == "__main__":
    run_script(main)
