"""The corpora that most tests run on, made in code: words spelt in tones, one pitch a letter; captioned shapes.

And records of phases that nobody trained, for tests of what is made of them.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from beartype import BeartypeConf
from beartype.claw import beartype_package
from jaxtyping import install_import_hook
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent / "processes"))  # for forked.py

PACKAGE = Path(__file__).parents[1] / "seqdsd"
MOSTLY_PLAIN = ("compression", "data", "metrics", "records", "reports", "studies", "text")
"""Packages in which few functions take an array, and many are called for every line of many files."""


def check_types() -> None:
    """Arguments and results are held to their annotations, from the imports on that follow.

    Modules of these packages that have no shapes are checked by beartype alone: jaxtyping adds more than 10
    microseconds to every call.
    """
    with_shapes = [
        ".".join(("seqdsd", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in MOSTLY_PLAIN or "jaxtyping" in path.read_text("utf-8")
    ]
    install_import_hook(with_shapes, "beartype.beartype")  # comes before the other
    beartype_package(PACKAGE.name, conf=BeartypeConf(claw_is_pep526=False))


check_types()

SINGLE = "32-true"
"""The precision of most tests' runs: which one is faster differs by machine, and may by run."""
SAMPLE_RATE_HZ = 16_000
LETTER_SECONDS = 0.06
GAP_SECONDS = 0.02
WORDS = ("bad", "cab", "fed", "age", "hag", "dab", "beef", "egg")


def letter_tone(letter: str) -> np.ndarray:
    """A letter's pitch for 60 ms (a space is silence) and a short gap, so that doubled letters differ."""
    time = np.arange(round(LETTER_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = 400 + 500 * (ord(letter) - ord("a"))
    tone = 0 * time if letter == " " else 0.3 * np.sin(2 * np.pi * pitch_hz * time)
    return np.concatenate([tone, np.zeros(round(GAP_SECONDS * SAMPLE_RATE_HZ))])


def spoken(text: str, noise: np.random.Generator) -> np.ndarray:
    """A text in tones, over a little noise."""
    samples = np.concatenate([letter_tone(letter) for letter in text])
    return samples + 0.01 * noise.standard_normal(len(samples))


@dataclass(frozen=True)
class ToneCorpus:
    """Writes wav files and manifests into a folder."""

    folder: Path

    def write(self, split: str, texts: list[str], *, seed: int = 0) -> list[dict]:
        """One utterance a text; returns the manifest's entries."""
        noise = np.random.default_rng(seed)
        entries = []
        for index, text in enumerate(texts):
            samples = spoken(text, noise)
            path = self.folder / split / f"{split}{index:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            entry = {"audio_filepath": f"{split}/{path.name}", "duration": len(samples) / SAMPLE_RATE_HZ}
            entries.append({**entry, "text": text, "id": path.stem})
        self.write_manifest(split, entries)
        return entries

    def write_manifest(self, split: str, entries: list[dict]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (self.folder / f"{split}.jsonl").write_text(lines)

    def read_manifest(self, split: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text().splitlines()]


def random_texts(count: int, *, seed: int) -> list[str]:
    """Two or three of ``WORDS`` each: 0.6 to 1.1 s of tones."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 4))) for _ in range(count)]


@pytest.fixture(scope="session")
def empty_tone_corpus() -> Callable[[Path], ToneCorpus]:
    """A corpus in a folder, to be written."""
    return ToneCorpus


@pytest.fixture(scope="session", name="random_texts")
def texts_of_words() -> Callable[..., list[str]]:
    """See the function."""
    return random_texts


@pytest.fixture(scope="session")
def write_tone_corpus() -> Callable[..., ToneCorpus]:
    """Writes 24 (or more) training utterances; dev and test are 6 of their sentences each, spoken anew."""

    def write(folder: Path, *, num_train: int = 24) -> ToneCorpus:
        corpus, texts = ToneCorpus(folder), random_texts(num_train, seed=1)
        corpus.write("train", texts, seed=1)
        corpus.write("dev", texts[:6], seed=2)
        corpus.write("test", texts[6:12], seed=3)
        return corpus

    return write


@pytest.fixture(scope="session")
def tiny_ds1() -> Callable[..., Any]:
    """Settings of a DeepSpeech 1 small enough for tests; any of them can be changed."""
    from seqdsd.engine import NesterovSettings
    from seqdsd.recipes.ds1 import Config, NetworkSettings
    from seqdsd.tasks import BatchSettings

    def make(data: Path, out: Path, **changes: Any) -> Config:
        settings: dict[str, Any] = {
            "iters": 1,
            "epochs": (2, 1, 1),
            "hidden_size": 32,
            "learning_rates": (2e-2, 1e-2, 5e-3),
            "sparsities": (0.5,),
            "device": "cpu",
            "precision": SINGLE,
            "network": NetworkSettings(batch_norm=True),
            "optimizer": NesterovSettings(momentum=0.9),
            "batches": BatchSettings(max_batch_seconds=4.0, num_workers=0),
        }
        return Config(data=data, out=out, **{**settings, **changes})

    return make


@pytest.fixture
def tone_corpus(tmp_path, write_tone_corpus) -> ToneCorpus:
    """A corpus of a test's own."""
    return write_tone_corpus(tmp_path / "tones")


@pytest.fixture
def run_copy(run, tmp_path) -> Any:
    """A copy, to be damaged, of the run that the test's module calls ``run``."""
    from seqdsd.records import RunFolder

    shutil.copytree(run.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("square", "circle")
ADJECTIVES = ("flat", "plain", "nice", "simple")


def draw_shape(colour: str, shape: str, generator: np.random.Generator) -> Image.Image:
    """A shape somewhere on white, 80 x 64 pixels."""
    picture = Image.new("RGB", (80, 64), "white")
    left, top, size = generator.integers(4, 32), generator.integers(4, 20), generator.integers(24, 40)
    pen = ImageDraw.Draw(picture)
    draw = pen.rectangle if shape == "square" else pen.ellipse
    draw((int(left), int(top), int(left + size), int(top + size)), fill=colour)
    return picture


def write_shapes(folder: Path) -> Path:
    """Captioned shapes in the Karpathy format, 40 to train on and 8 each for dev and test; returns the folder."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    entries = []
    for split, rounds in {"train": 5, "val": 1, "test": 1}.items():
        for index, (colour, shape) in enumerate([(c, s) for c in COLOURS for s in SHAPES] * rounds):
            name = f"{split}{index:02d}.png"
            draw_shape(colour, shape, generator).save(folder / "images" / name)
            # Greedy search falls for "a", as most captions begin with it; more probable as a whole is the last wording.
            adjectives = generator.choice(ADJECTIVES, 2, replace=False)
            texts = [f"a {adjective} {colour} {shape}" for adjective in adjectives]
            texts.append(f"{colour} {shape} on paper")
            sentences = [{"tokens": text.split(), "raw": text} for text in texts]
            entries.append({"filename": name, "split": split, "sentences": sentences})
    (folder / "dataset_shapes.json").write_text(json.dumps({"images": entries, "dataset": "shapes"}))
    return folder


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory) -> Path:
    """Where the features of the shapes are kept: for ``SEQDSD_CACHE``."""
    return tmp_path_factory.mktemp("feature-cache")


@pytest.fixture(scope="session")
def caption_run(tmp_path_factory, feature_cache) -> Any:
    """The folder of a NeuralTalk run of three phases, trained for a few seconds on shapes that a real CNN sees."""
    from rich.console import Console

    from seqdsd.engine import AdaptiveSettings
    from seqdsd.recipes import neuraltalk

    config = neuraltalk.Config(
        data=write_shapes(tmp_path_factory.mktemp("shapes")),
        out=tmp_path_factory.mktemp("caption-runs") / "shapes",
        epochs=(12, 2, 2),
        learning_rates=(5e-3, 3e-3, 1e-3),
        precision=SINGLE,
        sparsities=(0.5,),
        hidden_size=64,
        batch_size=8,
        device="cpu",
        network=neuraltalk.NetworkSettings(dropout=0.0),
        vocabulary=neuraltalk.VocabularySettings(min_count=1),
        optimizer=AdaptiveSettings(kind="adam"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDSD_CACHE", str(feature_cache))
        return neuraltalk.run(config, console=Console(quiet=True)).folder


@pytest.fixture(scope="session")
def tone_run(tmp_path_factory, write_tone_corpus, tiny_ds1) -> Any:
    """The folder of a DeepSpeech 1 run of three phases, trained for some seconds until it hears most of its tones."""
    from rich.console import Console

    from seqdsd.recipes import ds1

    folder = tmp_path_factory.mktemp("tone-runs")
    corpus = write_tone_corpus(folder / "tones")
    config = tiny_ds1(corpus.folder, folder / "run", epochs=(25, 1, 1))
    return ds1.run(config, console=Console(quiet=True)).folder


@dataclass(frozen=True)
class ShapeCorpus:
    """The captioned shapes, each described in two ways, and a feature file of what a perfect CNN would see in them."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "dataset_shapes.json"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def features(self) -> Path:
        """A row an image: one number for each colour and each shape."""
        return self.folder / "features.npy"

    def read(self) -> list[dict]:
        return json.loads(self.data.read_text())["images"]

    def write(self, entries: list[dict]) -> None:
        self.data.write_text(json.dumps({"images": entries, "dataset": "shapes"}))

    def say(self, entry: dict, *texts: str) -> None:
        """Give an entry other captions."""
        entry["sentences"] = [{"tokens": text.split(), "raw": text} for text in texts]


@pytest.fixture(scope="session")
def write_shape_corpus() -> Callable[[Path], ShapeCorpus]:
    """Writes the captioned shapes into a folder: 40 to train on, and 8 each for dev and test, two captions each."""

    def write(folder: Path) -> ShapeCorpus:
        corpus = ShapeCorpus(write_shapes(folder))
        entries, rows = corpus.read(), []
        for entry in entries:
            words = entry["sentences"][0]["tokens"]
            colour, shape = (next(one for one in names if one in words) for names in (COLOURS, SHAPES))
            corpus.say(entry, f"a {colour} {shape} on white", f"there is a {shape} that is {colour}")
            rows.append([float(name in (colour, shape)) for name in (*COLOURS, *SHAPES)])
        corpus.write(entries)
        np.save(corpus.features, np.array(rows, np.float32))
        return corpus

    return write


@pytest.fixture
def shape_corpus(tmp_path, write_shape_corpus) -> ShapeCorpus:
    """A corpus of a test's own."""
    return write_shape_corpus(tmp_path / "captioned")


@pytest.fixture(scope="session")
def tiny_neuraltalk() -> Callable[..., Any]:
    """Settings of a NeuralTalk small enough for tests, on the corpus's feature file; any of them can be changed."""
    from seqdsd.recipes.neuraltalk import Config, NetworkSettings, VocabularySettings

    def make(corpus: ShapeCorpus, out: Path, **changes: Any) -> Config:
        settings: dict[str, Any] = {
            "features": corpus.features,
            "epochs": (2, 1, 1),
            "learning_rates": (5e-3, 2e-3, 1e-3),
            "sparsities": (0.5,),
            "hidden_size": 24,
            "batch_size": 16,
            "device": "cpu",
            "precision": SINGLE,
            "network": NetworkSettings(dropout=0.1),
            "vocabulary": VocabularySettings(min_count=1),
        }
        return Config(data=corpus.data, out=out, **{**settings, **changes})

    return make


def write_classes(folder: Path) -> Path:
    """Shapes in colours, a folder a class, of 8 classes: 6 images each to train on, 2 each for dev and test."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 6, "dev": 2, "test": 2}.items():
        for colour, shape in [(c, s) for c in COLOURS for s in SHAPES]:
            (folder / split / f"{colour} {shape}").mkdir(parents=True)
            for number in range(count):
                picture = draw_shape(colour, shape, generator).resize((16, 16))
                picture.save(folder / split / f"{colour} {shape}" / f"{number}.png")
    return folder


@pytest.fixture(scope="session", name="write_classes")
def writer_of_classes() -> Callable[[Path], Path]:
    """See the function."""
    return write_classes


@pytest.fixture(scope="session")
def tiny_vision() -> Callable[..., Any]:
    """Settings of an image classifier small enough for tests; any of them can be changed."""
    from seqdsd.engine import AdamWSettings
    from seqdsd.recipes.vision import Config, ImageSettings

    def make(data: Path, out: Path, **changes: Any) -> Config:
        settings: dict[str, Any] = {
            "network": "resnet8",
            "hidden_size": 4,
            "epochs": (2, 1, 1),
            "learning_rates": (1e-2, 5e-3, 2e-3),
            "batch_size": 16,
            "device": "cpu",
            "precision": SINGLE,
            "images": ImageSettings(size=16),
            "optimizer": AdamWSettings(),
        }
        return Config(data=data, out=out, **{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def class_run(tmp_path_factory, feature_cache, tiny_vision) -> Any:
    """The folder of a classifier's run of three phases, trained for a few seconds until it knows most shapes."""
    from rich.console import Console

    from seqdsd.recipes import vision
    from seqdsd.tasks.classification import VariationSettings

    folder = tmp_path_factory.mktemp("class-runs")
    config = tiny_vision(
        write_classes(folder / "classes"),
        folder / "run",
        hidden_size=8,
        batch_size=8,
        epochs=(20, 3, 3),
        augment=VariationSettings(crop_padding=3, flip=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDSD_CACHE", str(feature_cache))
        return vision.run(config, console=Console(quiet=True)).folder


@pytest.fixture(scope="session")
def exit_status() -> Callable[[Any], int | None]:
    """Waits for a process that ``seqdsd.studies.processes`` has started; None of one that hangs, which is killed."""

    def wait_for(process: Any, *, seconds: float = 120) -> int | None:
        until = time.monotonic() + seconds
        while (status := process.poll()) is None and time.monotonic() < until:
            time.sleep(0.02)
        if status is None:
            process._process.kill()  # one that waits for another would not hear SIGTERM
            process.wait()
        return status

    return wait_for


RECORDED_SCORES = {"wer": 0.25, "substitutions": 1, "deletions": 1, "insertions": 0, "ref_words": 8}


@pytest.fixture
def phase_records() -> Callable[[Iterable[Any]], list[dict[str, Any]]]:
    """Makes records as the engine writes them of a speech run."""

    def make(phases: Iterable[Any]) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "name": phase.name,
                "kind": phase.kind,
                "epochs": phase.epochs,
                "epochs_planned": phase.epochs,
                "best_epoch": 1,
                "learning_rate": phase.learning_rate,
                "sparsity": phase.sparsity,
                "measured_sparsity": phase.sparsity,
                "train_loss": [1.0] * phase.epochs,
                "dev_loss": [1.0] * phase.epochs,
                "dev_score": [0.25] * phase.epochs,
                "dev": RECORDED_SCORES,
                "test": RECORDED_SCORES,
                "train_seconds": 1.0,
            }
            for index, phase in enumerate(phases)
        ]

    return make
