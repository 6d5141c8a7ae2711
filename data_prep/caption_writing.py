"""What the caption scripts share: from texts to words, and from checked images to a Karpathy split file and a table.

Images are looked for, never opened, copied or changed. Reading a corpus' own layout is each script's business.
"""

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from writing import warn

from seqdsd.data import OnBadData
from seqdsd.data.unpacking import read_unpacked
from seqdsd.records import write_atomically
from seqdsd.text import caption_words

_MIN_COUNT = 5
_NAMED = 20


def caption_entry(
    filename: str, split: str, texts: Sequence[str], *, source: str, **more: Any
) -> dict[str, Any]:
    """One image of a Karpathy split file, not numbered yet.

    Args:
        filename: Below the image folder, or below ``filepath``.
        split: ``train``, ``restval``, ``val`` or ``test``.
        texts: Its captions as written.
        source: ``FILE:LINE`` or the like, the start of error messages.
        more: Further keys, such as ``filepath``.

    Raises:
        ValueError: If a caption has no words.
    """
    sentences: list[dict[str, Any]] = [{"tokens": caption_words(text), "raw": text} for text in texts]
    for sentence in sentences:
        if not sentence["tokens"]:
            raise ValueError(
                f"{source}: the caption {sentence['raw']!r} of {filename} has no words. Remove it, or its image."
            )
    return {**more, "filename": filename, "split": split, "sentences": sentences}


def read_json(path: Path) -> Any:
    """Read a JSON file, ``.json`` or ``.json.gz``.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        return json.loads(read_unpacked(path))
    except gzip.BadGzipFile as error:
        raise ValueError(f"{path}: damaged gzip data ({error}). Fetch the file again.") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Is the corpus complete?") from error
    except (ValueError, RecursionError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not JSON ({error}). Fetch the file again.") from error


def existing_folder(candidates: Sequence[Path], what: str) -> Path:
    """Return the first candidate that is a folder with something in it.

    Raises:
        ValueError: If there is none.
    """
    for folder in candidates:
        if folder.is_dir() and next(folder.iterdir(), None) is not None:
            return folder
    raise ValueError(f"{what}: none of {', '.join(map(str, candidates))} is there, or all are empty.")


def keep_present(
    entries: Sequence[dict[str, Any]], image_folder: Path, *, on_bad_data: OnBadData
) -> list[dict[str, Any]]:
    """Return the entries whose image file exists; with "skip" the others are listed.

    Raises:
        ValueError: With "error", naming absent images and their number.
    """
    present: list[dict[str, Any]] = []
    absent: list[str] = []
    for entry in entries:
        name = os.path.join(entry.get("filepath", ""), entry["filename"])
        if (image_folder / name).is_file():
            present.append(entry)
        else:
            absent.append(f"\n  {entry['split']}: {name}")
    if absent and on_bad_data == "error":
        more = f"\n  and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        raise ValueError(
            f"{image_folder}: {len(absent)} of {len(entries)} images are absent:"
            f"{''.join(absent[:_NAMED])}{more}\nComplete the folder, or leave them out with --on-bad-data skip "
            "(scores will then not compare with published ones)."
        )
    if absent:
        warn(
            f"left out {len(absent)} of {len(entries)} images, absent from {image_folder}; scores will not compare "
            f"with published ones:{''.join(absent)}"
        )
    return present


def write_split_file(
    path: Path, entries: Sequence[dict[str, Any]], *, dataset: str, image_folder: Path
) -> None:
    """Number images and sentences, write the file in one step and print a table of it.

    The image folder is written as an absolute path under the key ``image_folder``, which only this project reads.

    Raises:
        ValueError: If a split is empty.
    """
    splits = Counter(entry["split"] for entry in entries)
    for split in ("train", "val", "test"):
        if not splits[split]:
            raise ValueError(f"no image is left for the split '{split}'. Check the corpus folder.")
    content = {
        "dataset": dataset,
        "image_folder": str(image_folder.absolute()),
        "images": list(_numbered(entries)),
    }
    write_atomically(path, json.dumps(content))
    _print_summary(content, path)


def _numbered(entries: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Number images from 0 in the order of the file, and likewise sentences that have no number (COCO's have)."""
    sentid = 0
    for imgid, entry in enumerate(entries):
        sentences = [
            {"sentid": sentid + number, **sentence, "imgid": imgid}
            for number, sentence in enumerate(entry["sentences"])
        ]
        sentid += len(sentences)
        sentids = [sentence["sentid"] for sentence in sentences]
        yield {**entry, "imgid": imgid, "sentids": sentids, "sentences": sentences}


def _print_summary(content: Mapping[str, Any], path: Path) -> None:
    """Print what each split holds, and where images will be read."""
    table = Table(title=str(path))
    table.add_column("split")
    for column in ("images", "captions", "words", "different words", f"seen {_MIN_COUNT} times"):
        table.add_column(column, justify="right")
    for split in ("train", "restval", "val", "test"):
        entries = [entry for entry in content["images"] if entry["split"] == split]
        if not entries:
            continue
        sentences = [sentence for entry in entries for sentence in entry["sentences"]]
        words = Counter(word for sentence in sentences for word in sentence["tokens"])
        frequent = sum(count >= _MIN_COUNT for count in words.values())
        numbers = (len(entries), len(sentences), words.total(), len(words), frequent)
        table.add_row(split, *map(str, numbers))
    console = Console()
    console.print(table, markup=False)
    where = f"images stay in {content['image_folder']} (written into the file)"
    console.print(where, markup=False, highlight=False, soft_wrap=True)
