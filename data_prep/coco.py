"""COCO captions 2014: 123,287 photographs with five to seven captions each, in Karpathy's format.

His own split, which published scores use, is in his dataset_coco.json alone; without it a stated split is made.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caption_writing import (
    caption_entry,
    existing_folder,
    keep_present,
    read_json,
    write_split_file,
)
from writing import CorpusFolder, OutFolder, run_script, warn

from seqdsd.data import OnBadData, read_captions

KARPATHY_IMAGES = {"train": 113_287, "val": 5000, "test": 5000}
HELD_OUT = 5000
_FOLDERS = ("train2014", "val2014")


def main(
    corpus: CorpusFolder,
    out: OutFolder,
    *,
    splits: Path | None = None,
    seed: int = 0,
    on_bad_data: OnBadData = "error",
) -> None:
    """Write dataset_coco.json, in Karpathy's format, for COCO 2014.

    Example: python data_prep/coco.py ~/corpora/coco data/coco --splits ~/corpora/dataset_coco.json

    Args:
        corpus: The folder with train2014/ and val2014/ (or with images/train2014/ …). Without --splits also
            captions_train2014.json and captions_val2014.json, there or in annotations/.
        out: Folder for the file. Images are read where they lie: their folder's absolute path is written into
            the file.
        splits: Karpathy's dataset_coco.json, taken as it is. Not given: of val2014, 5,000 images drawn by the
            seed are val, 5,000 are test and the rest is restval, which is trained on.
        seed: Which images those are.
        on_bad_data: error stops at an absent image or one without captions, skip leaves such images out and
            lists them.
    """
    if splits is not None and splits.absolute() == (out / "dataset_coco.json").absolute():
        raise ValueError(f"{splits}: --splits is the file that would be written. Name another OUT.")
    images = _image_folder(corpus)
    if splits is None:
        entries = own_split(
            read_release(corpus, "train2014", on_bad_data=on_bad_data),
            read_release(corpus, "val2014", on_bad_data=on_bad_data),
            seed=seed,
        )
        warn(
            f"this split is our own, drawn with seed {seed}: scores will not compare with those on Karpathy's split. "
            "Name his dataset_coco.json with --splits for that. The images are in another order than in his file, too: "
            "feature files whose rows follow his do not fit this one, though they have as many."
        )
    else:
        entries = karpathy_split(splits, images, on_bad_data=on_bad_data)
    entries = keep_present(entries, images, on_bad_data=on_bad_data)
    write_split_file(out / "dataset_coco.json", entries, dataset="coco", image_folder=images)


def karpathy_split(path: Path, images: Path, *, on_bad_data: OnBadData) -> list[dict[str, Any]]:
    """Return the entries of Karpathy's file as they are.

    Raises:
        ValueError: If the file is damaged; with "error" also at a bad image, see ``seqdsd.data.read_captions``.
    """
    corpus = read_captions(path, images=images, on_bad_data=on_bad_data)
    found = {"train": len(corpus.train), "val": len(corpus.dev), "test": len(corpus.test)}
    if found != KARPATHY_IMAGES:
        warn(
            f"{path}: the splits have {found} images, Karpathy's {KARPATHY_IMAGES}: scores will not compare."
        )
    if corpus.skipped:
        warn(f"left out {len(corpus.skipped)} images:\n" + "\n".join(corpus.skipped.values()))
    entries = read_json(path)["images"]
    return [entries[image.index] for image in corpus.images]


def read_release(corpus: Path, name: str, *, on_bad_data: OnBadData) -> list[dict[str, Any]]:
    """Read ``captions_NAME.json``: its images by COCO id, each with its captions in the order of their ids.

    Raises:
        ValueError: If the file is missing or not in COCO's format; with "error" also if an image has no caption, or
            one without words.
    """
    path = _annotations(corpus, name)
    content = read_json(path)
    filenames = {
        image["id"]: image["file_name"] for image in _rows(content, "images", ("id", "file_name"), path)
    }
    texts: dict[int, list[tuple[int, str]]] = {id_: [] for id_ in filenames}
    for row in _rows(content, "annotations", ("id", "image_id", "caption"), path):
        if row["image_id"] not in texts:
            raise ValueError(
                f"{path}: annotation {row['id']} belongs to image {row['image_id']}, which is not there. Fetch the "
                "file again."
            )
        texts[row["image_id"]].append((row["id"], row["caption"]))
    entries, skipped = [], []
    for id_ in sorted(filenames):
        try:
            entries.append(_to_entry(id_, filenames[id_], texts[id_], folder=name, path=path))
        except ValueError as error:
            if on_bad_data == "error":
                raise
            skipped.append(str(error))
    if skipped:
        warn(f"left out {len(skipped)} images for their captions:\n" + "\n".join(skipped))
    return entries


def own_split(
    train: Sequence[dict[str, Any]], val: Sequence[dict[str, Any]], *, seed: int
) -> list[dict[str, Any]]:
    """Give every image its split; the same seed gives the same one.

    Raises:
        ValueError: If val2014 has too few images.
    """
    if len(val) < 2 * HELD_OUT:
        raise ValueError(
            f"captions_val2014.json has {len(val)} usable images, fewer than the {2 * HELD_OUT} of val and test. Is it "
            "complete?"
        )
    drawn = random.Random(seed).sample(range(len(val)), 2 * HELD_OUT)
    split_of = {index: "val" if rank < HELD_OUT else "test" for rank, index in enumerate(drawn)}
    return [{**entry, "split": "train"} for entry in train] + [
        {**entry, "split": split_of.get(index, "restval")} for index, entry in enumerate(val)
    ]


def _to_entry(
    id_: int, filename: str, captions: Sequence[tuple[int, str]], *, folder: str, path: Path
) -> dict[str, Any]:
    """One image; ``own_split`` replaces its split."""
    if not captions:
        raise ValueError(f"{path}: image {id_} ({filename}) has no caption. Is the file complete?")
    captions = sorted(captions)
    texts = [text for _, text in captions]
    entry = caption_entry(
        filename, "restval", texts, source=f"{path}: image {id_}", filepath=folder, cocoid=id_
    )
    for sentence, (sentid, _) in zip(entry["sentences"], captions, strict=True):
        sentence["sentid"] = sentid
    return entry


def _rows(content: Any, key: str, needed: Sequence[str], path: Path) -> list[Mapping[str, Any]]:
    """The objects of a list, each with the keys that are needed, whole numbers where they are ids."""
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: has no list '{key}'. Is this COCO's captions file?")
    for number, row in enumerate(rows):
        for name in needed:
            value = row.get(name) if isinstance(row, dict) else None
            if type(value) is not (int if name.endswith("id") else str):
                raise ValueError(f"{path}: '{name}' of {key}[{number}] is {value!r}. Fetch the file again.")
    return rows


def _annotations(corpus: Path, name: str) -> Path:
    """Where the captions of a release are."""
    for path in (corpus / f"captions_{name}.json", corpus / "annotations" / f"captions_{name}.json"):
        if path.is_file():
            return path
    raise ValueError(
        f"{corpus}: captions_{name}.json is neither there nor in annotations/. Unpack "
        "annotations_trainval2014.zip there, or give Karpathy's file with --splits."
    )


def _image_folder(corpus: Path) -> Path:
    """The folder that holds train2014/ and val2014/."""
    folder = existing_folder(
        [corpus / below / _FOLDERS[0] for below in ("", "images")], "the images of COCO"
    ).parent
    return existing_folder([folder / _FOLDERS[1]], "the images of COCO").parent


if __name__ == "__main__":
    run_script(main)
