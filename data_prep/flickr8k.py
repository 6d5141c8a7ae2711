"""Flickr8k: 8,000 photographs with five captions each (Hodosh et al. 2013), by the official text files.

Images and text come as two archives, Flickr8k_Dataset.zip and Flickr8k_text.zip, for research; nothing is downloaded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caption_writing import caption_entry, existing_folder, keep_present, write_split_file
from writing import CorpusFolder, OutFolder, read_lines, run_script, warn

from seqdsd.data import OnBadData

OFFICIAL_IMAGES = {"train": 6000, "val": 1000, "test": 1000}
NUM_CAPTIONS = 5
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_TOKENS = "Flickr8k.token.txt"
_TEXT_FOLDERS = ("", "text", "Flickr8k_text")
# The official archive unpacks to the misspelt name, and some copies have that folder inside another.
_IMAGE_FOLDERS = (
    "images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Images",
)
# Captioned (as "….jpg.1") though the official image archive has no such file. It is in no split list.
KNOWN_ABSENT = "2258277193_586949ec62.jpg"


def main(corpus: CorpusFolder, out: OutFolder, *, on_bad_data: OnBadData = "error") -> None:
    """Write dataset_flickr8k.json, in Karpathy's format, for Flickr8k.

    Example: python data_prep/flickr8k.py ~/corpora/flickr8k data/flickr8k

    Args:
        corpus: The folder with the text files (or with text/ or Flickr8k_text/) and the images, in images/,
            Flicker8k_Dataset/, Flickr8k_Dataset/ or Images/.
        out: Folder for the file. Images are read where they lie: their folder's absolute path is written into
            the file.
        on_bad_data: error stops at absent images, wrong captions or lists that are not the official ones;
            skip leaves such images out and lists them, as it does with lines of captions that cannot be read.
    """
    text = _text_folder(corpus)
    images = existing_folder([corpus / name for name in _IMAGE_FOLDERS], "the images of Flickr8k")
    lists = {split: read_list(text / name) for split, name in _LISTS.items()}
    check_lists(lists, on_bad_data=on_bad_data)
    captions = read_captions_of(text / _TOKENS, on_bad_data=on_bad_data)
    _mention_unused(captions, lists)
    entries = keep_present(
        to_entries(lists, captions, text / _TOKENS, on_bad_data=on_bad_data), images, on_bad_data=on_bad_data
    )
    write_split_file(out / "dataset_flickr8k.json", entries, dataset="flickr8k", image_folder=images)


def read_list(path: Path) -> list[str]:
    """Read the image names of one split, in the order of the list.

    Raises:
        ValueError: If the list cannot be read or repeats a name.
    """
    first_seen: dict[str, str] = {}
    for source, name in read_lines(path):
        if name in first_seen:
            raise ValueError(
                f"{source}: {name!r} was listed at {first_seen[name]} already. Remove one of the lines."
            )
        first_seen[name] = source
    return list(first_seen)


def check_lists(lists: Mapping[str, Sequence[str]], *, on_bad_data: OnBadData) -> None:
    """Compare the lists with the official numbers, and with each other.

    Raises:
        ValueError: If two splits share an image; with "error" also if a list is not as long as the official one.
    """
    where = Counter(name for names in lists.values() for name in names)
    shared = [name for name, count in where.items() if count > 1]
    if shared:
        splits = [split for split, names in lists.items() if shared[0] in names]
        raise ValueError(
            f"{len(shared)} images are in more than one list, such as {shared[0]!r} in those of "
            f"{' and '.join(splits)}: test scores would be too good. Fetch the official lists again."
        )
    for split, names in lists.items():
        if len(names) != OFFICIAL_IMAGES[split]:
            message = (
                f"{_LISTS[split]} names {len(names)} images, the official list {OFFICIAL_IMAGES[split]}: scores will "
                "not compare with published ones."
            )
            if on_bad_data == "error":
                raise ValueError(f"{message} Fetch it again, or go on with --on-bad-data skip.")
            warn(message)


def read_captions_of(path: Path, *, on_bad_data: OnBadData) -> dict[str, dict[int, str]]:
    """Read ``NAME.jpg#NUMBER<tab>CAPTION`` lines: image name to caption number to caption.

    Raises:
        ValueError: With "error", if a line is not as described, or an image has two captions of a number.
    """
    captions: dict[str, dict[int, str]] = {}
    skipped = []
    for source, line in read_lines(path):
        try:
            _add_caption(captions, line, source)
        except ValueError as error:
            if on_bad_data == "error":
                raise
            skipped.append(str(error))
    if skipped:
        warn(f"left out {len(skipped)} lines:\n" + "\n".join(skipped))
    return captions


def _add_caption(captions: dict[str, dict[int, str]], line: str, source: str) -> None:
    label, tab, caption = line.partition("\t")
    name, mark, number = label.rpartition("#")
    if not tab or not mark or not number.isdecimal():
        raise ValueError(f"{source}: {line!r} is not 'NAME.jpg#NUMBER<tab>CAPTION'. Fetch the file again.")
    of_image = captions.setdefault(name, {})
    if int(number) in of_image:
        raise ValueError(f"{source}: {label} was given already. Remove one of the lines.")
    of_image[int(number)] = caption


def to_entries(
    lists: Mapping[str, Sequence[str]],
    captions: Mapping[str, Mapping[int, str]],
    source: Path,
    *,
    on_bad_data: OnBadData,
) -> list[dict[str, Any]]:
    """Join lists and captions; images without exactly five captions of words are bad.

    Raises:
        ValueError: With "error", at the first such image.
    """
    entries, skipped = [], []
    for split, names in lists.items():
        for name in names:
            try:
                entries.append(_to_entry(name, split, captions.get(name, {}), source))
            except ValueError as error:
                if on_bad_data == "error":
                    raise
                skipped.append(str(error))
    if skipped:
        warn(f"left out {len(skipped)} images for their captions:\n" + "\n".join(skipped))
    return entries


def _to_entry(name: str, split: str, captions: Mapping[int, str], source: Path) -> dict[str, Any]:
    """One image, its captions in the order of their numbers."""
    if len(captions) != NUM_CAPTIONS:
        raise ValueError(
            f"{source}: {name!r} of {_LISTS[split]} has {len(captions)} captions, expected {NUM_CAPTIONS}. Is the file "
            "complete?"
        )
    texts = [captions[number] for number in sorted(captions)]
    return caption_entry(name, split, texts, source=str(source))


def _text_folder(corpus: Path) -> Path:
    """The folder that holds the captions."""
    for name in _TEXT_FOLDERS:
        if (corpus / name / _TOKENS).is_file():
            return corpus / name
    raise ValueError(
        f"{corpus}: {_TOKENS} is neither there nor in text/ or Flickr8k_text/. Unpack Flickr8k_text.zip there."
    )


def _mention_unused(captions: Mapping[str, Any], lists: Mapping[str, Sequence[str]]) -> None:
    """Say which captioned images no list names: in the official release 92 of 8,092."""
    listed = {name for names in lists.values() for name in names}
    unused = [name for name in captions if name not in listed]
    if not unused:
        return
    odd = [name for name in unused if not name.endswith(".jpg")]
    what = f", {', '.join(odd)} among them" if odd else ""
    known = (
        f" (the release has no image {KNOWN_ABSENT}; it is not needed)" if f"{KNOWN_ABSENT}.1" in odd else ""
    )
    print(f"{len(unused)} captioned images are in no split list and are not used{what}{known}.")


if __name__ == "__main__":
    run_script(main)
