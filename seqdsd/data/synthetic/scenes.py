"""The embedded caption corpus: drawn scenes with five captions each, made on the spot, with no download.

For trying the whole path from pictures to BLEU, and for tests; not a substitute for photographs. What dev and test
show (which figures, in which arrangement) is never shown in training. The same `SyntheticScenes` gives the same bytes
with one version of Pillow and numpy on one platform, whatever the number of workers: every picture has a generator of
its own, seeded by (seed, split, index).

Left out: clutter, overlap, more than one sentence a caption.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from seqdsd.data.synthetic.cache import cached_corpus
from seqdsd.data.synthetic.content import SPLITS, Combination, draw_scene, share_out
from seqdsd.data.synthetic.drawing import draw
from seqdsd.data.synthetic.progress import progress_bar
from seqdsd.data.synthetic.wording import CAPTIONS, caption

GENERATOR_VERSION = 2
"""Part of the cache key: raise it with any change that changes a picture or a caption."""

_KARPATHY_NAMES = {"train": "train", "dev": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class SyntheticScenes:
    """What corpus to make. Equal values mean the same corpus."""

    seed: int = 0
    """Seeds what is shown, where exactly, and in which words; in [0, 2**31)."""

    train_images: int = 2000
    """Pictures for training."""

    dev_images: int = 200
    """Pictures of combinations that only dev shows."""

    test_images: int = 200
    """Pictures of combinations that only test shows."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"SyntheticScenes.seed must lie in [0, 2**31), got {self.seed}")
        for split in SPLITS:
            if (size := self.num_images(split)) < 1:
                raise ValueError(f"SyntheticScenes.{split}_images must be at least 1, got {size}")

    def num_images(self, split: str) -> int:
        """Pictures asked for in ``train``, ``dev`` or ``test``."""
        sizes = (self.train_images, self.dev_images, self.test_images)
        return sizes[SPLITS.index(split)]


def synthetic_scenes(
    spec: SyntheticScenes, cache_dir: Path | None = None, *, workers: int | None = None
) -> Path:
    """Make the corpus, or find it in the cache.

    Args:
        spec: What to make.
        cache_dir: Where corpora are kept; by default `default_cache_dir`.
        workers: Pictures made at once, by default one per processor; has no effect on the bytes.

    Returns:
        A folder with ``dataset_scenes.json`` (the Karpathy split format) and ``images/`` (PNG of 224 by 224). It
        appears complete or not at all; two processes that make it at once end with the same one.

    Raises:
        OSError: If the cache cannot be written; the message says what to do.
    """
    key = {"spec": asdict(spec), "generator": GENERATOR_VERSION, "pillow": PIL.__version__}
    num_workers = workers or os.cpu_count() or 1
    return cached_corpus(
        "synthetic-scenes", key, lambda folder: _build(spec, folder, num_workers), cache_dir=cache_dir
    )


def _build(spec: SyntheticScenes, folder: Path, workers: int) -> None:
    (folder / "images").mkdir()
    shares = share_out(spec.seed)
    places = [(split, index) for split in SPLITS for index in range(spec.num_images(split))]
    # Threads: the costly parts, resampling and compression, release the interpreter lock.
    pool = ThreadPoolExecutor(max_workers=workers)
    with progress_bar("synthetic scenes", len(places)) as advance:
        try:
            jobs = [
                pool.submit(_make, spec.seed, split, index, shares[split], folder / "images", advance)
                for split, index in places
            ]
            captions = [job.result() for job in jobs]
        finally:
            pool.shutdown(cancel_futures=True)
    images = [
        _entry(imgid, split, index, sentences)
        for imgid, ((split, index), sentences) in enumerate(zip(places, captions, strict=True))
    ]
    text = json.dumps({"dataset": "scenes", "images": images})
    (folder / "dataset_scenes.json").write_text(text + "\n", encoding="utf-8")


def _make(
    seed: int,
    split: str,
    index: int,
    share: Mapping[str, list[Combination]],
    folder: Path,
    advance: Callable[[], None],
) -> list[str]:
    """Draw and save one picture; returns its captions."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = draw_scene(rng, share)
    # Compressing harder takes longer than drawing and saves little.
    draw(scene, rng).save(folder / _filename(split, index), compress_level=1)
    captions = caption(scene, rng)
    advance()
    return captions


def _filename(split: str, index: int) -> str:
    return f"{split}-{index:05d}.png"


def _entry(imgid: int, split: str, index: int, sentences: list[str]) -> dict[str, Any]:
    sentids = list(range(CAPTIONS * imgid, CAPTIONS * (imgid + 1)))
    return {
        "filename": _filename(split, index),
        "imgid": imgid,
        "split": _KARPATHY_NAMES[split],
        "sentids": sentids,
        "sentences": [
            {"tokens": sentence.split(), "raw": sentence, "imgid": imgid, "sentid": sentid}
            for sentence, sentid in zip(sentences, sentids, strict=True)
        ],
    }
