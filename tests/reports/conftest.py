"""A captioning run written by hand, and a real browser to open its page in."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seqdsd.records import RunFolder, write_json_lines

PHASES = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")

# DSD paper, Table 5: BLEU-1 to 4, sparsity, epochs, learning rate.
TABLE_5 = (
    ((57.2, 38.6, 25.4, 16.8), 0.0, 19, 1e-2),
    ((58.4, 39.7, 26.3, 17.5), 0.8, 10, 1e-3),
    ((59.2, 40.7, 27.4, 18.5), 0.0, 6, 1e-4),
)

# Image: (references, caption of each phase). One gains, one loses, one stays, one changes and stays.
CAPTIONS = {
    "gain.jpg": (
        ["a girl in a pink dress is on a swing", "a child swings"],
        [
            "a boy is standing on a rock wall",
            "a girl is on a rock wall",
            "a girl in a pink dress is on a swing",
        ],
    ),
    "loss.jpg": (
        ["a dog runs through the grass"],
        ["a dog runs through the grass", "a dog runs", "a cat sleeps on the sofa"],
    ),
    "same.jpg": (["two boys playing soccer"], ["two boys playing football"] * 3),
    "swap.jpg": (["a surfer rides a wave"], ["nothing here", "nothing there", "nobody there"]),
}


def phase_record(index: int, **scores: Any) -> dict[str, Any]:
    """A phase's record as the engine writes it, with the paper's numbers."""
    bleu, sparsity, epochs, learning_rate = TABLE_5[index]
    metrics = {f"neuraltalk_bleu{order}": value for order, value in enumerate(bleu, start=1)}
    metrics |= {f"bleu{order}": value - 1 for order, value in enumerate(bleu, start=1)}
    return {
        "index": index,
        "name": PHASES[index],
        "kind": ("dense", "sparse", "redense")[index],
        "epochs": epochs,
        "learning_rate": learning_rate,
        "sparsity": sparsity,
        "measured_sparsity": sparsity,
        "dev": dict(metrics),
        "test": metrics,
        "train_seconds": 60.0,
    }


def write_run(folder: Path, captions: dict[str, tuple[list[str], list[str]]]) -> RunFolder:
    """A finished run whose phases said ``captions`` of drawn images, listed in ``images.jsonl``."""
    run = RunFolder(folder)
    run.write_phases(phase_record(index) for index in range(len(PHASES)))
    for index, phase in enumerate(PHASES):
        rows = [{"id": id_, "refs": refs, "hyp": said[index]} for id_, (refs, said) in captions.items()]
        for split in ("dev", "test"):
            write_json_lines(run.hypotheses(phase, split), rows)
    run.config.write_text(
        'seed = 7\n[provenance]\ncommand = "python -m seqdsd.recipes.neuraltalk --seed 7"\nseed = 7\n'
        'git_commit = "789f74b51f27"\n[provenance.versions]\nseqdsd = "0.1.0"\n'
    )
    (folder / "drawn").mkdir()
    paths = []
    for number, id_ in enumerate(captions):
        path = Path("drawn") / f"{number}.png"  # relative to the run's folder, and unlike the id
        Image.new("RGB", (48, 32), (40 * number, 90, 160)).save(folder / path)
        paths.append({"id": id_, "path": str(path)})
    write_json_lines(folder / "images.jsonl", paths)
    return run


@pytest.fixture
def make_caption_run(tmp_path) -> Callable[..., RunFolder]:
    """Writes a run of other captions."""
    return lambda captions, name="run": write_run(tmp_path / name, captions)


@pytest.fixture
def caption_run(make_caption_run) -> RunFolder:
    """The run of ``CAPTIONS``."""
    return make_caption_run(CAPTIONS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: the system's, since playwright's own is a download."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = started.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()
