"""Captioned images in the Karpathy split format (``dataset_*.json``): Flickr8k, Flickr30k, COCO and what is like them.

Captions come as words, split by whoever wrote the file; those that are there as text alone are split here. No image is
opened, and image files need not exist: features may have been computed elsewhere. ``check_images_exist`` is for when
they have not.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from seqdsd.data.speech import OnBadData
from seqdsd.printable import printable
from seqdsd.text import WordVocabulary, caption_words

log = logging.getLogger(__name__)

Split = Literal["train", "dev", "test"]
# COCO's "restval" is what Karpathy's val and test left of COCO's own val; everybody trains on it.
_SPLIT_OF: Mapping[str, Split] = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
_NAMED = 5
_SKIP_HINT = "(or --on-bad-data skip)"


class CaptionDataError(ValueError):
    """A caption file that cannot be used; the message names the file, the image and a remedy."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image with its reference captions."""

    id: str
    """The file's name, for COCO with its folder: ``val2014/COCO_val2014_000000391895.jpg``. Unique."""
    path: str
    """Absolute; the file may be absent."""
    index: int
    """Position in the caption file, which is the row (NeuralTalk: the column) of the image in a feature file."""
    captions: tuple[tuple[str, ...], ...]
    """Words of each caption: at least one caption, at least one word in each."""
    split: Split
    source: str
    """Where it was read, such as ``dataset_flickr8k.json: image 12``: for error messages."""
    caption_numbers: tuple[int, ...] = ()
    """Position of each caption in the file's list, from 0; empty where none was left out."""

    @property
    def caption_ids(self) -> tuple[str, ...]:
        """A name for each caption: ``NAME.jpg#2``, numbered as in the file."""
        numbers = self.caption_numbers or range(len(self.captions))
        return tuple(f"{self.id}#{number}" for number in numbers)


@dataclass(frozen=True)
class CaptionCorpus:
    """What one caption file holds."""

    path: Path
    image_folder: Path
    """Absolute; it may be absent."""
    train: tuple[CaptionedImage, ...]
    """Images of the splits "train" and "restval"."""
    dev: tuple[CaptionedImage, ...]
    """Images of the split "val"."""
    test: tuple[CaptionedImage, ...]
    all_filenames: tuple[str, ...]
    """Every image's id in the order of the file, those skipped included ("" for one without a name, or of a split that
    was not read), so that row i of a feature file belongs to ``all_filenames[i]``."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What was left out: source to message; always empty unless asked for ``on_bad_data="skip"``."""
    skipped_splits: Mapping[str, Split] = field(default_factory=dict)
    """Source to split of what was left out, where its split is a known one."""
    splits: tuple[Split, ...] = ("train", "dev", "test")
    """Those that are used; of a corpus as it was read, each has an image."""

    def split(self, name: str) -> tuple[CaptionedImage, ...]:
        """The images of ``train``, ``dev`` or ``test``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]

    def skipped_of(self, split: str) -> dict[str, str]:
        """What was left out of ``train``, ``dev`` or ``test``, and what nobody can tell not to belong there."""
        return {
            source: message
            for source, message in self.skipped.items()
            if self.skipped_splits.get(source, split) == split
        }

    @property
    def images(self) -> tuple[CaptionedImage, ...]:
        """The images of all splits, in the order of the file."""
        return tuple(sorted(self.train + self.dev + self.test, key=lambda image: image.index))


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
            _skip_or_raise(error, _source(path, index), skipped, on_bad_data)
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
    return _refuse_empty_splits(corpus)


def check_images_exist(corpus: CaptionCorpus, *, on_bad_data: OnBadData = "error") -> CaptionCorpus:
    """Make sure that every image is there, before features are computed from them.

    Args:
        corpus: What to check.
        on_bad_data: "error" raises, naming the first absent images and their number; "skip" leaves absent images out
            and lists them.

    Raises:
        CaptionDataError: Also with "skip" if the whole folder is absent, or a split would be left empty.
    """
    if not corpus.image_folder.is_dir():
        raise CaptionDataError(
            f"{corpus.path}: its image folder {corpus.image_folder} does not exist. Name the folder with --images, "
            "or give a feature file."
        )
    absent = [image for image in corpus.images if not os.path.isfile(image.path)]
    if not absent:
        return corpus
    if on_bad_data == "error":
        names = ", ".join(image.id for image in absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
        raise CaptionDataError(
            f"{corpus.path}: {len(absent)} of its {len(corpus.images)} images are not in {corpus.image_folder}: "
            f"{names}. Complete the folder, or name another with --images {_SKIP_HINT}."
        )
    skipped = dict(corpus.skipped)
    skipped_splits = {**corpus.skipped_splits, **{image.source: image.split for image in absent}}
    for image in absent:
        message = f"{image.source} ({image.id!r}): the image {image.path} does not exist"
        skipped[image.source] = message
        log.warning("skipped: %s", message)
    gone = {image.index for image in absent}

    def present(images: Sequence[CaptionedImage]) -> tuple[CaptionedImage, ...]:
        return tuple(image for image in images if image.index not in gone)

    train, dev, test = present(corpus.train), present(corpus.dev), present(corpus.test)
    left = replace(corpus, train=train, dev=dev, test=test, skipped=skipped, skipped_splits=skipped_splits)
    return _refuse_empty_splits(left)


def check_known_words(
    corpus: CaptionCorpus, vocabulary: WordVocabulary, *, on_bad_data: OnBadData = "error"
) -> CaptionCorpus:
    """Make sure that every training caption has a word that the vocabulary knows: nothing is learnt from the others.

    The references of dev and test stay as they are, whatever is in them.

    Args:
        corpus: What to check.
        vocabulary: Of the training captions.
        on_bad_data: "error" raises for the first such caption; "skip" leaves those captions out, and with them an
            image that has no other.

    Raises:
        CaptionDataError: Also with "skip" if no training image is left.
    """
    skipped, skipped_splits = dict(corpus.skipped), dict(corpus.skipped_splits)
    train = []
    for image in corpus.train:
        known = [any(word in vocabulary for word in caption) for caption in image.captions]
        if all(known):
            train.append(image)
            continue
        for source, error in _wordless(image, known, vocabulary):
            _skip_or_raise(error, source, skipped, on_bad_data)
            skipped_splits[source] = "train"
        if any(known):
            train.append(_keep_captions(image, known))
    left = replace(corpus, train=tuple(train), skipped=skipped, skipped_splits=skipped_splits)
    return _refuse_empty_splits(left)


def _wordless(
    image: CaptionedImage, known: Sequence[bool], vocabulary: WordVocabulary
) -> Iterator[tuple[str, CaptionDataError]]:
    """Say where each caption is of which no word is known, and what is wrong with it."""
    for words, id_, is_known in zip(image.captions, image.caption_ids, known, strict=True):
        if not is_known:
            source = f"{image.source} caption {id_.rpartition('#')[2]}"
            yield (
                source,
                CaptionDataError(
                    f"{source} ({image.id!r}): none of its words is among the {vocabulary.num_words} of the "
                    f"vocabulary: {_shown(' '.join(words))}. Lower the vocabulary's min_count, or remove the caption"
                ),
            )


def _keep_captions(image: CaptionedImage, wanted: Sequence[bool]) -> CaptionedImage:
    """The image with some of its captions, which keep their numbers."""
    numbers = image.caption_numbers or tuple(range(len(image.captions)))
    return replace(
        image,
        captions=tuple(
            caption for caption, is_wanted in zip(image.captions, wanted, strict=True) if is_wanted
        ),
        caption_numbers=tuple(number for number, is_wanted in zip(numbers, wanted, strict=True) if is_wanted),
    )


def _skip_or_raise(
    error: CaptionDataError, source: str, skipped: dict[str, str], on_bad_data: OnBadData
) -> None:
    """Note what is left out, or refuse it."""
    if on_bad_data == "error":
        raise CaptionDataError(f"{error} {_SKIP_HINT}") from None
    skipped[source] = str(error)
    log.warning("skipped: %s", error)


def _refuse_empty_splits(corpus: CaptionCorpus) -> CaptionCorpus:
    """Return the corpus if every split that was read has an image."""
    for split in corpus.splits:
        if not corpus.split(split):
            name = "val" if split == "dev" else split  # as the file calls it
            first = next(iter(corpus.skipped.values()), None)
            why = f" {len(corpus.skipped)} were skipped; the first: {first}" if first else ""
            raise CaptionDataError(
                f"{corpus.path}: no image of the split '{name}'. Images are needed to train on, to choose by (val) and "
                f"to judge by (test); give each a 'split'.{why}"
            )
    return corpus


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
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
        del raw
        content = json.loads(text)
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
            f"{path}: 'image_folder' is {_shown(named)}. Give a folder's path, or remove the key."
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
    where = f"{path}: image {index}" + (f" ({_shown(name)})" if name else "")
    if not isinstance(entry, dict):
        raise CaptionDataError(f"{where}: a JSON {type(entry).__name__}, not an object. Remove it.")
    for key in ("filename", "split", "sentences"):
        if key not in entry:
            found = printable(", ".join(sorted(entry)))[:200] or "none"
            raise CaptionDataError(f"{where}: the key '{key}' is missing (found: {found}). Add it.")
    if not name:
        raise CaptionDataError(
            f"{where}: 'filename' is {_shown(entry['filename'])} and 'filepath' {_shown(entry.get('filepath', ''))}. "
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
            f"{where}: 'imgid' is {_shown(number)}, but the image is number {index} of the file, and feature files are "
            "in the order of both. Number the images from 0, and take their rows out of the feature file likewise."
        )


def _split(value: Any, where: str) -> Split:
    if not isinstance(value, str) or value not in _SPLIT_OF:
        raise CaptionDataError(f"{where}: 'split' is {_shown(value)}. Known splits: {', '.join(_SPLIT_OF)}.")
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
            f"{where}: no captions: 'sentences' is {_shown(sentences)}. Add some, or remove it."
        )
    captions = []
    for number, sentence in enumerate(sentences):
        tokens: Any = sentence.get("tokens") if isinstance(sentence, dict) else None
        raw: Any = sentence.get("raw") if isinstance(sentence, dict) else None
        if tokens is None and isinstance(raw, str):
            tokens = caption_words(raw)
            if not tokens:
                raise CaptionDataError(
                    f"{where}: caption {number}, {_shown(raw)}, has no words. Correct it, or remove it."
                )
        if not _are_words(tokens):
            raise CaptionDataError(
                f"{where}: the 'tokens' of caption {number} are {_shown(tokens)}. Give a list of words, at least one, "
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


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} within others, too many levels deep"
    return text if len(text) <= 80 else text[:80] + "…"


def _claim_name(image: CaptionedImage, first_seen: dict[str, int], path: Path) -> None:
    """Register a file name, which must be new."""
    if image.id in first_seen:
        raise CaptionDataError(
            f"{path}: image {image.index} ({image.id!r}): image {first_seen[image.id]} has the same file name. Remove "
            "one of the two."
        )
    first_seen[image.id] = image.index
