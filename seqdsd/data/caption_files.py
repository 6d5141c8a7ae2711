"""Caption files in the Karpathy split format (``dataset_*.json``): Flickr8k, Flickr30k, COCO and what is like them.

Captions come as words, split by whoever wrote the file; those that are there as text alone are split here.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqdsd.data.captions import (
    CaptionCorpus,
    CaptionDataError,
    CaptionedImage,
    Split,
    refuse_empty_splits,
    shown,
    skip_or_raise,
)
from seqdsd.data.speech import OnBadData
from seqdsd.data.unpacking import read_unpacked
from seqdsd.printable import printable
from seqdsd.text import caption_words

log = logging.getLogger(__name__)

# COCO's "restval" is what Karpathy's val and test left of COCO's own val; everybody trains on it.
_SPLIT_OF: Mapping[str, Split] = {"train": "train", "restval": "train", "val": "dev", "test": "test"}


def read_captions(
    data: Path, *, images: Path | None = None, on_bad_data: OnBadData = "error", with_test: bool = True
) -> CaptionCorpus:
    """Read and check a caption file.

    Args:
        data: The file, ``.json`` or ``.json.gz``, or a folder with exactly one ``dataset_*.json`` or ``….json.gz``.
        images: The image folder. Not given: the file's ``image_folder`` (a key of ours, relative to the file) or
            else ``images/`` beside the file.
        on_bad_data: "error" stops at the first bad image, "skip" leaves bad images out and lists them.
        with_test: Without it the images of the split "test" are passed over, and none need be there.

    Raises:
        CaptionDataError: If the file cannot be opened, is damaged, is not in the format, or lacks usable images of
            train, val or (if it is read) test; with "error" also if an image misses a key, has a wrong value, an
            unknown split, no caption or a caption without words, lies outside the image folder, or repeats a name.
    """
    path = _find_file(data)
    content = _parse(path)
    folder = _image_folder(path, images, content)
    good: dict[Split, list[CaptionedImage]] = {"train": [], "dev": [], "test": []}
    skipped: dict[str, str] = {}
    skipped_splits: dict[str, Split] = {}
    filenames: list[str] = []
    first_seen: dict[str, int] = {}
    num_restval = 0
    for index, entry in enumerate(content["images"]):
        if not with_test and _known_split(entry) == "test":
            filenames.append("")  # its row in a feature file is nobody's
            continue
        filenames.append(_name(entry))
        try:
            image = _to_image(entry, index, path=path, folder=folder)
            _claim_name(image, first_seen, path)
        except CaptionDataError as error:
            skip_or_raise(error, _source(path, index), skipped, on_bad_data)
            if (split := _known_split(entry)) is not None:
                skipped_splits[_source(path, index)] = split
            continue
        good[image.split].append(image)
        num_restval += entry["split"] == "restval"
    if num_restval:
        log.info("%s: %d 'restval' images count as train", path.name, num_restval)
    corpus = CaptionCorpus(
        path,
        folder,
        train=tuple(good["train"]),
        dev=tuple(good["dev"]),
        test=tuple(good["test"]),
        all_filenames=tuple(filenames),
        skipped=skipped,
        skipped_splits=skipped_splits,
        splits=("train", "dev", "test") if with_test else ("train", "dev"),
    )
    return refuse_empty_splits(corpus)


def _find_file(data: Path) -> Path:
    """Return the one caption file that ``--data`` means."""
    if not data.is_dir():
        return data
    found = sorted([*data.glob("dataset_*.json"), *data.glob("dataset_*.json.gz")])
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CaptionDataError(
            f"{data}: needed is exactly one dataset_*.json or dataset_*.json.gz, found: {names}. Name the file itself, "
            "or write one with data_prep/."
        )
    return found[0]


def _parse(path: Path) -> dict[str, Any]:
    """Read the whole file and check its outermost layer."""
    try:
        content = json.loads(read_unpacked(path).decode("utf-8-sig"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CaptionDataError(
            f"{path}: damaged or truncated gzip data ({error}). Fetch the file again."
        ) from error
    except OSError as error:
        raise CaptionDataError(
            f"{path}: cannot open the caption file ({error.strerror}). Check the path, or write the file with "
            "data_prep/."
        ) from error
    except UnicodeDecodeError as error:
        raise CaptionDataError(
            f"{path}: not valid UTF-8 at byte {error.start}. Save the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CaptionDataError(
            f"{path}: not JSON ({error}). Is the file complete? Fetch it again."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise CaptionDataError(
            f"{path}: not in the Karpathy split format, a JSON object whose 'images' is a list. Write one with "
            "data_prep/flickr8k.py or data_prep/coco.py."
        )
    return content


def _image_folder(path: Path, images: Path | None, content: Mapping[str, Any]) -> Path:
    """The folder that file names start at, absolute."""
    if images is not None:
        return Path(os.path.abspath(images))
    named = content.get("image_folder", "images")
    if not isinstance(named, str) or not named:
        raise CaptionDataError(
            f"{path}: 'image_folder' is {shown(named)}. Give a folder's path, or remove the key."
        )
    return Path(os.path.abspath(path.parent / named))


def _source(path: Path, index: int) -> str:
    return f"{path.name}: image {index}"


def _name(entry: Any) -> str:
    """The image's id, or "" if it has none that can be used."""
    if not isinstance(entry, dict):
        return ""
    folder, filename = entry.get("filepath", ""), entry.get("filename")
    if not isinstance(folder, str) or not isinstance(filename, str) or not filename:
        return ""
    return f"{folder}/{filename}" if folder else filename


def _to_image(entry: Any, index: int, *, path: Path, folder: Path) -> CaptionedImage:
    """Check one entry."""
    name = _name(entry)
    where = f"{path}: image {index}" + (f" ({shown(name)})" if name else "")
    if not isinstance(entry, dict):
        raise CaptionDataError(f"{where}: a JSON {type(entry).__name__}, not an object. Remove it.")
    for key in ("filename", "split", "sentences"):
        if key not in entry:
            found = printable(", ".join(sorted(entry)))[:200] or "none"
            raise CaptionDataError(f"{where}: the key '{key}' is missing (found: {found}). Add it.")
    if not name:
        raise CaptionDataError(
            f"{where}: 'filename' is {shown(entry['filename'])} and 'filepath' {shown(entry.get('filepath', ''))}. "
            "Give strings."
        )
    if printable(name) != name:
        raise CaptionDataError(f"{where}: the file name holds control characters or the like. Rename it.")
    _check_position(entry, index, where)
    return CaptionedImage(
        id=name,
        path=_image_path(name, folder, where),
        index=index,
        captions=_captions(entry["sentences"], where),
        split=_split(entry["split"], where),
        source=_source(path, index),
    )


def _check_position(entry: Mapping[str, Any], index: int, where: str) -> None:
    """Refuse an ``imgid`` that is not the position: feature rows would go to the wrong images without a word."""
    number = entry.get("imgid", index)
    if number != index or isinstance(number, bool):
        raise CaptionDataError(
            f"{where}: 'imgid' is {shown(number)}, but the image is number {index} of the file, and feature files are "
            "in the order of both. Number the images from 0, and take their rows out of the feature file likewise."
        )


def _split(value: Any, where: str) -> Split:
    if not isinstance(value, str) or value not in _SPLIT_OF:
        raise CaptionDataError(f"{where}: 'split' is {shown(value)}. Known splits: {', '.join(_SPLIT_OF)}.")
    return _SPLIT_OF[value]


def _known_split(entry: Any) -> Split | None:
    """The split of an entry that is bad, if that much can be read."""
    value = entry.get("split") if isinstance(entry, dict) else None
    return _SPLIT_OF.get(value) if isinstance(value, str) else None


def _image_path(name: str, folder: Path, where: str) -> str:
    """Return the absolute path of an image below the folder, going by the names alone."""
    path = os.path.normpath(os.path.join(folder, name))
    if not path.startswith(str(folder).rstrip(os.sep) + os.sep):
        raise CaptionDataError(
            f"{where}: the file name points outside the image folder {folder}. Correct it, or name the folder above "
            "with --images."
        )
    return path


def _captions(sentences: Any, where: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each caption."""
    if not isinstance(sentences, list) or not sentences:
        raise CaptionDataError(
            f"{where}: no captions: 'sentences' is {shown(sentences)}. Add some, or remove it."
        )
    captions = []
    for number, sentence in enumerate(sentences):
        tokens: Any = sentence.get("tokens") if isinstance(sentence, dict) else None
        raw: Any = sentence.get("raw") if isinstance(sentence, dict) else None
        if tokens is None and isinstance(raw, str):
            tokens = caption_words(raw)
            if not tokens:
                raise CaptionDataError(
                    f"{where}: caption {number}, {shown(raw)}, has no words. Correct it, or remove it."
                )
        if not _are_words(tokens):
            raise CaptionDataError(
                f"{where}: the 'tokens' of caption {number} are {shown(tokens)}. Give a list of words, at least one, "
                "none of them empty, with a space or with half a character in it; or the caption as 'raw' text; or "
                "remove it."
            )
        # COCO has 6.5 million tokens of 30,000 different words: one string object for each word, not for each token.
        captions.append(tuple(map(sys.intern, tokens)))
    return tuple(captions)


def _are_words(tokens: Any) -> bool:
    """Whether this is a list of words that come back from ``" ".join(…).split()``."""
    if not isinstance(tokens, list) or not tokens:
        return False
    try:
        text = " ".join(tokens)
        return text.split() == tokens and bool(text.encode())
    except (TypeError, UnicodeEncodeError):  # something else than strings, or halves of a character
        return False


def _claim_name(image: CaptionedImage, first_seen: dict[str, int], path: Path) -> None:
    """Register a file name, which must be new."""
    if image.id in first_seen:
        raise CaptionDataError(
            f"{path}: image {image.index} ({image.id!r}): image {first_seen[image.id]} has the same file name. Remove "
            "one of the two."
        )
    first_seen[image.id] = image.index
