"""Feature files made elsewhere: ``.npy`` with a row for each image, and NeuralTalk's ``vgg_feats.mat``.

Nothing is unpickled. A .npy file is memory-mapped and stays on disk; a .mat file is read into memory whole (8,000
images of 4096 numbers are 131 MB). Leaves out MATLAB's v7.3 format, which is HDF5.
"""

from __future__ import annotations

import hashlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from seqdsd.vision.encoders import first_line
from seqdsd.vision.features import FeatureError, ImageFeatures, OnBadData
from seqdsd.vision.mat_files import read_matrix

log = logging.getLogger(__name__)

_MAT_KEY = "feats"
_BLOCK_ROWS = 1024

Array = Shaped[np.ndarray, "rows feature_size"]


def read_feature_file(
    path: Path, image_ids: Sequence[str], *, on_bad_data: OnBadData = "error"
) -> ImageFeatures:
    """Open a feature file and check every row that is used, in the memory of a block of rows.

    Rows belong to images by the names file, ``STEM_names.txt`` beside it with a name in each line (STEM without a
    trailing ``_f16`` or ``_f32``, too). Without one, row i is image i of ``image_ids``, as column i of
    ``vgg_feats.mat`` is the image with imgid i.

    Args:
        path: ``.npy``, of any real type; or ``.mat`` with the matrix ``feats`` [feature_size, images].
        image_ids: Names of all images of the split file, in its order; "" keeps the place of one without a name, and
            of a name that repeats the first counts.
        on_bad_data: "skip" leaves out images without a row, or with NaN or infinity in it; "error" raises.

    Raises:
        FeatureError: If the file is missing, damaged, of another kind, or does not belong to the images; with "error"
            also for an image whose row is missing or not finite.

    Reference: karpathy/neuraltalk, imagernn/data_provider.py (``feats`` and imgid). No departure.
    """
    array = _read_array(path)
    rows = _rows(path, len(array), image_ids)
    reasons = {id_: f"{path}: no row for image {id_}" for id_ in image_ids if id_ and id_ not in rows}
    is_finite, digest = _inspect(array)
    for id_, row in rows.items():
        if not is_finite[row]:
            reasons[id_] = f"{path}: NaN or infinity in row {row}, image {id_}"
    used = {id_: row for id_, row in rows.items() if id_ not in reasons}
    _judge(path, reasons, len(used), on_bad_data)
    digest.update("".join(f"{id_}\t{row}\n" for id_, row in sorted(used.items())).encode())
    return ImageFeatures(
        array=array, rows=used, skipped=reasons, source=path.name, fingerprint=digest.hexdigest()
    )


def _judge(path: Path, reasons: Mapping[str, str], num_used: int, on_bad_data: OnBadData) -> None:
    if not reasons:
        return
    first = next(iter(reasons.values()))
    others = f" (and {len(reasons) - 1} other images)" if len(reasons) > 1 else ""
    if on_bad_data == "error":
        raise FeatureError(f"{first}{others}. Compute these features again, or leave such images out")
    if not num_used:
        raise FeatureError(f"{path}: no image is left; the first was skipped because {first}")
    log.warning("skipped: %s%s", first, others)


# Which row is whose.


def _rows(path: Path, num_rows: int, image_ids: Sequence[str]) -> dict[str, int]:
    names_path = _names_path(path)
    if names_path is None:
        if num_rows != len(image_ids):
            raise FeatureError(
                f"{path}: {num_rows} rows, but the split file has {len(image_ids)} images. Take the features of these "
                f"images, or name the rows in {path.stem}_names.txt beside the file"
            )
        rows = _first_places(image_ids)
        _say_which_is_whose(path, rows)
        return rows
    row_of = _read_names(names_path, path, num_rows)
    return {id_: row_of[id_] for id_ in image_ids if id_ in row_of}


def _first_places(image_ids: Sequence[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, id_ in enumerate(image_ids):
        if id_:
            places.setdefault(id_, place)
    return places


def _say_which_is_whose(path: Path, rows: Mapping[str, int]) -> None:
    """Rows in another order look the same: two of them let the user see it."""
    if rows:
        ids = list(rows)  # in the order of the split file
        facts = ", ".join(f"row {rows[id_]} is {id_}" for id_ in dict.fromkeys((ids[0], ids[-1])))
        log.info("no names file beside %s: %s", path, facts)


def _names_path(path: Path) -> Path | None:
    stems = (path.stem, re.sub(r"_f(16|32)$", "", path.stem))
    candidates = (path.with_name(f"{stem}_names.txt") for stem in stems)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_names(names_path: Path, path: Path, num_rows: int) -> dict[str, int]:
    try:
        names = names_path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise FeatureError(f"{names_path}: not UTF-8 ({error}). Save it as UTF-8") from error
    if len(names) != num_rows:
        raise FeatureError(
            f"{names_path}: {len(names)} lines, but {path.name} has {num_rows} rows. There must be a name for each row"
        )
    row_of: dict[str, int] = {}
    for row, name in enumerate(name.strip() for name in names):
        if name in row_of:
            raise FeatureError(
                f"{names_path}:{row + 1}: {name!r} again, after line {row_of[name] + 1}. Remove one"
            )
        row_of[name] = row
    return row_of


# What is in the rows.


def _inspect(array: Array) -> tuple[Bool[np.ndarray, "rows"], Any]:
    """One pass: which rows are finite, and a digest of all."""
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape}\n".encode(), digest_size=16)
    is_finite = np.empty(len(array), bool)
    for start in range(0, len(array), _BLOCK_ROWS):
        block = np.ascontiguousarray(array[start : start + _BLOCK_ROWS])
        is_finite[start : start + len(block)] = np.isfinite(block).all(axis=1)
        digest.update(block.data)
    return is_finite, digest


# Reading.


def _read_array(path: Path) -> Array:
    readers: Mapping[str, Callable[[Path], np.ndarray]] = {".npy": _read_npy, ".mat": _read_mat}
    if path.suffix not in readers:
        raise FeatureError(
            f"{path}: feature files are {' or '.join(readers)}. Save the features as one of these"
        )
    if not path.is_file():
        raise FeatureError(f"{path}: no such feature file. Correct the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's on files that Python 2 wrote
        array = readers[path.suffix](path)
    if array.ndim != 2 or not array.size:
        raise FeatureError(
            f"{path}: an array of shape {array.shape}. A row of numbers for each image is needed"
        )
    return array


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # the header is Python source: TokenError, RecursionError …
        raise FeatureError(
            f"{path}: truncated, or not a .npy file of numbers ({first_line(error)}). Copy it again, or save it with "
            "numpy.save"
        ) from error
    _check_type(path, array)
    return array


def _read_mat(path: Path) -> np.ndarray:
    try:
        array = read_matrix(path.read_bytes(), _MAT_KEY)
    except NotImplementedError as error:
        raise FeatureError(
            f"{path}: MATLAB's v7.3 format. Save it with save(FILE, 'feats', '-v7')"
        ) from error
    except TypeError as error:
        raise FeatureError(
            f"{path}: {_MAT_KEY!r} holds {error}, not real numbers. Save the features as singles"
        ) from error
    except (ValueError, OSError, OverflowError, MemoryError, zlib.error, struct.error) as error:
        raise FeatureError(
            f"{path}: damaged, or not a .mat file ({first_line(error)}). Copy it again"
        ) from error
    if array is None:
        raise FeatureError(f"{path}: holds no matrix {_MAT_KEY!r}. Name it so: [feature_size, images]")
    return np.ascontiguousarray(array.T)


def _check_type(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind not in "fiu":
        raise FeatureError(f"{path}: holds {array.dtype}, not real numbers. Save the features as float32")
