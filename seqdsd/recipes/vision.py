"""Image classifiers with Dense-Sparse-Dense training (Han et al. 2017, sections 4.1 to 4.3 and appendix A).

    python -m seqdsd.recipes.vision                                          # embedded corpus, no download
    python -m seqdsd.recipes.vision --config recipes/cifar10/resnet20.toml   # Table 10

Where no data is named a small corpus of shapes is drawn, and the settings begin from ``vision_embedded.toml``;
otherwise from Table 10's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from seqdsd.config import read_config
from seqdsd.data.labelled_images import (
    ImageCorpus,
    ImageFormat,
    ImageSource,
    channel_statistics,
    common_format,
    open_images,
    read_image_corpus,
)
from seqdsd.data.synthetic import SyntheticShapes, synthetic_shapes
from seqdsd.engine import (
    AdamWSettings,
    GivenWeights,
    NesterovSettings,
    Processes,
    is_first_process,
    make_fabric,
)
from seqdsd.fabric import Fabric
from seqdsd.models import CLASSIFIERS, make_classifier
from seqdsd.recipes.command import run_recipe
from seqdsd.recipes.start_weights import given_run
from seqdsd.recipes.training import RunConfig, RunResult, describe_training, make_network, train_or_resume
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.phase_table import phase_table
from seqdsd.sparsity import VISION_RULES
from seqdsd.sparsity.schedule import RESNET20_EPOCHS, RESNET20_LEARNING_RATES, RESNET20_SPARSITIES
from seqdsd.tasks.classification import (
    IMAGENET,
    ClassificationTask,
    Labeller,
    Normalisation,
    VariationSettings,
    judged_id,
)
from seqdsd.vision import published_weights

RECIPE = "vision"
MAY_CHANGE_ON_RESUME = ("out", "device", "checkpoint_minutes", "on_bad_data", "num_workers")
PUBLISHED = "imagenet"
"""As weights to begin with: those that torchvision publishes."""
EMBEDDED_SETTINGS = Path(__file__).with_name("vision_embedded.toml")
COLOURS = 3


@dataclass(frozen=True)
class ImageSettings:
    """What images are brought to."""

    size: int | None = None
    """Side in pixels; by default what the network was made for: 28, 32 or 224."""
    resize: int | None = None
    """Images of another size are scaled until their shorter side has so many pixels, and their centre is cut out (256
    is usual for 224); by default they are scaled until they just cover."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Settings of an image classifier's run; the defaults are those of Table 10 (ResNet-20 on CIFAR-10)."""

    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = (*RunConfig.NETWORK_SETTINGS, "images")
    SETTINGS_OF_USE: ClassVar[tuple[str, ...]] = (*RunConfig.SETTINGS_OF_USE, "batch_size")

    data: Path | None = None
    """Folder with train/, dev/ (or val/) and test/, and in each of them a folder of images for each class; scripts in
    data_prep/ make one. Without it a small corpus is drawn."""
    out: Path = Path("runs/vision")
    """The run folder."""
    network: str = "resnet20"
    """For 32 x 32 pixels resnet8, resnet20, resnet32, resnet44, resnet56; for 28 x 28 lenet5, lenet300; for 224 x 224
    googlenet, vgg16, resnet18, resnet50, alexnet, squeezenet1_0, squeezenet1_1."""
    iters: int = 1
    """Rounds of sparse and redense phases after the first dense phase (Table 10: 1)."""
    epochs: tuple[int, ...] = RESNET20_EPOCHS
    """Epochs of each phase: one number for all or one a phase (Table 10: 164, 45, 45)."""
    hidden_size: int | None = None
    """Channels of the first stage of resnet8 to resnet56 (16), units of the (first) hidden layer of lenet5 (500) and
    lenet300 (300). By default as published; the networks for 224 x 224 are of one size."""
    weights: Path | None = None
    """Trained weights to begin with, of whatever classes: all but the last layer is taken, which begins fresh for the
    classes of the data, and the first dense phase trains both. imagenet takes those that torchvision publishes,
    downloaded once; or a safetensors file, a state_dict saved by torch, or the folder of a run."""
    start_weights: Path | None = None
    """Trained weights that stand for the first dense phase, so that the run begins with the first sparse one; of the
    classes of the data, in their order. imagenet, files and folders as for weights (of a run its best phase on dev).
    The first of epochs and of learning rates is not used."""
    learning_rates: tuple[float, ...] = RESNET20_LEARNING_RATES
    """One a phase (Table 10: 1e-1, 1e-3, 1e-4); further phases keep the last ratio."""
    sparsities: tuple[float, ...] = RESNET20_SPARSITIES
    """One a round (Table 10: 0.5; Tables 2 to 4: 0.3); further rounds halve the last."""
    batch_size: int = 128
    """Images in a batch (He et al. 2015, section 4.2)."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    num_workers: int = 1
    """Processes that read images ahead, where they are too many to lie in memory; 0 reads in the training process."""
    images: ImageSettings = field(default_factory=ImageSettings)
    augment: VariationSettings = field(default_factory=VariationSettings)
    optimizer: NesterovSettings | AdamWSettings = field(
        default_factory=lambda: NesterovSettings(momentum=0.9, weight_decay=1e-4)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.weights is not None and self.start_weights is not None:
            raise ValueError(
                "weights are trained by the first dense phase, and start_weights stand for it; leave one of them out"
            )
        _check_network(self.network, self.image_format(COLOURS), self.hidden_size)

    @property
    def initial_weights(self) -> Path | None:
        """See ``RunConfig``."""
        return self.weights or self.start_weights

    def with_fresh_weights(self) -> Config:
        """See ``RunConfig``."""
        return replace(self, weights=None, start_weights=None)

    @property
    def fresh_layers(self) -> tuple[str, ...]:
        """See ``RunConfig``."""
        return CLASSIFIERS[self.network].head if self.weights else ()

    def weights_by_name(self, name: str, *, download: bool = True) -> Path | None:
        """The file of torchvision's weights, where these are named.

        Raises:
            ValueError: If torchvision has none of this network, or they cannot be downloaded.
        """
        if name != PUBLISHED:
            return None
        if not CLASSIFIERS[self.network].has_published_weights:
            known = ", ".join(one for one, kind in CLASSIFIERS.items() if kind.has_published_weights)
            raise ValueError(
                f"torchvision publishes no weights of {self.network}, but of {known}; name a file of weights"
            )
        return published_weights(self.network, download=download)

    def image_format(self, channels: int) -> ImageFormat:
        """What images are brought to.

        Raises:
            ValueError: If ``images.resize`` is smaller than the images would be.
        """
        kind = CLASSIFIERS.get(self.network)
        side = self.images.size or (kind.image_size if kind else 1)
        return ImageFormat(channels, side, side, self.images.resize)


def run(
    config: Config,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train, or go on where the run in ``config.out`` stopped; a complete run is returned as it is.

    ``start_from`` is a run whose leading phases are taken over, as far as both have them in common.

    Raises:
        ValueError: For settings, data or a run folder that cannot be used; the message says what to do.
    """
    console = console or Console(quiet=not is_first_process())
    result = train_or_resume(
        config,
        recipe=RECIPE,
        rules=VISION_RULES,
        optimizer=config.optimizer,
        may_change=MAY_CHANGE_ON_RESUME,
        spelling="images",
        make_task=partial(make_task_with, config),
        save_parts=save_parts,
        make_fresh=lambda task: make_model(
            config, num_classes=len(task.labeller.classes), image_format=task.labeller.format
        ),
        resume=resume,
        start_from=start_from,
        console=console,
    )
    if is_first_process():
        console.print(phase_table(result.phases))
        command = shlex.join(["seqdsd", "report", str(result.folder.path)])
        said = f"\nImages, and what each phase called them: {command}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    return result


def dry_run(config: Config, console: Console | None = None) -> None:
    """Print corpus, network, pruning plan and schedule; train nothing."""
    console = console or Console()
    corpus = read_corpus(config)
    images = ", ".join(f"{split} {len(corpus.split(split)):,}" for split in corpus.splits)
    known = given_run(config, RECIPE, part="images")
    image_format = make_format(config, corpus, Labeller.load(known.path) if known else None)
    console.print(
        f"[bold]Corpus[/bold] {escape(str(config.data or 'embedded (drawn)'))}: {len(corpus.classes)} classes; images "
        f"{images}, as {image_format.channels} x {image_format.height} x {image_format.width}"
    )
    model = make_model(config, num_classes=len(corpus.classes), image_format=image_format)
    describe_training(model, config, rules=VISION_RULES, console=console)


def make_task(
    config: Config,
    labeller: Labeller | None = None,
    fabric: Fabric | None = None,
    given: GivenWeights | None = None,
) -> ClassificationTask:
    """The network, with fresh weights or those given, and its data; without a labeller one is made of the latter.

    Raises:
        ValueError: For data or weights that cannot be used.
    """
    fabric = fabric or make_fabric(config.device, config.precision)
    corpus = read_corpus(config)
    image_format = make_format(config, corpus, labeller)
    make = partial(make_model, config, num_classes=len(corpus.classes), image_format=image_format)
    model = make_network(make, config, optimizer=config.optimizer, given=given)  # before images are read
    sources = {split: _open(corpus, split, image_format, config) for split in corpus.splits}
    if labeller is None:
        labeller = Labeller(corpus.classes, image_format, _normalisation(config, sources["train"]))
    return ClassificationTask(
        model=model,
        labeller=labeller,
        sources=sources,
        batch_size=config.batch_size,
        variations=config.augment,
        label_smoothing=config.label_smoothing,
        seed=config.seed,
        processes=Processes.of(fabric),
        accumulate=config.accumulate,
        left_out=corpus.skipped,
    )


def make_task_with(
    config: Config, known: RunFolder | None, fabric: Fabric, given: GivenWeights | None
) -> ClassificationTask:
    """The same with the labeller of a run, if one is known."""
    return make_task(config, Labeller.load(known.path) if known else None, fabric, given)


def read_corpus(config: Config) -> ImageCorpus:
    """The images named, or those of the embedded corpus."""
    folder = config.data or synthetic_shapes(SyntheticShapes())
    return read_image_corpus(folder, on_bad_data=config.on_bad_data, with_test=config.score_test)


def make_format(config: Config, corpus: ImageCorpus, labeller: Labeller | None = None) -> ImageFormat:
    """What images are brought to: grey where all are, and of one size, if the network takes such; else coloured.

    Where the network's weights are a run's, whose labeller is given, it is that run's.

    Raises:
        ValueError: If the classes are not the labeller's.
    """
    if labeller is not None:
        if labeller.classes != corpus.classes:
            begin = ", or begin with --weights in place of --start-weights" if config.start_weights else ""
            raise ValueError(
                f"{corpus.folder}: its classes are not those that the network was trained on; bring the folders of "
                f"these back{begin}"
            )
        return labeller.format
    if CLASSIFIERS[config.network].channels is not None:
        return config.image_format(COLOURS)
    common = common_format(corpus.train)
    return config.image_format(common.channels if common else COLOURS)


def make_model(config: Config, *, num_classes: int, image_format: ImageFormat) -> nn.Module:
    """The network, with fresh weights from torch's generator."""
    return make_classifier(
        config.network,
        num_classes=num_classes,
        channels=image_format.channels,
        image_size=image_format.height,
        hidden_size=config.hidden_size,
    )


@cache  # studies make settings by the hundred
def _check_network(network: str, image_format: ImageFormat, hidden_size: int | None) -> None:
    """Raise for a network, a size of images or a width that cannot be."""
    with torch.device("meta"):
        make_classifier(
            network,
            num_classes=2,
            channels=image_format.channels,
            image_size=image_format.height,
            hidden_size=hidden_size,
        )


def embedded_settings() -> Config:
    """Settings for the embedded corpus: small enough for two minutes on two CPU cores."""
    return read_config(EMBEDDED_SETTINGS, Config())


def _open(corpus: ImageCorpus, split: str, image_format: ImageFormat, config: Config) -> ImageSource:
    return open_images(
        corpus.split(split),
        image_format,
        resized_crop=config.augment.resized_crop and split == "train",
        num_workers=config.num_workers,
        pin_memory=config.pins_memory,
        on_bad_data=config.on_bad_data,
    )


def _normalisation(config: Config, train: ImageSource) -> Normalisation:
    """That of the training images; where torchvision has weights, what these expect."""
    if CLASSIFIERS[config.network].has_published_weights:
        return IMAGENET
    return Normalisation(*channel_statistics(train))


def save_parts(task: ClassificationTask, path: Path) -> Mapping[str, str]:
    """Write what a run's weights need beside them, and where its images are."""
    path.mkdir(parents=True, exist_ok=True)
    task.labeller.save(path)
    judged = [image for split, source in task.sources.items() if split != "train" for image in source.images]
    rows = [{"id": judged_id(image), "path": str(image.path.absolute())} for image in judged]
    write_json_lines(RunFolder(path).images, rows)
    return {}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m seqdsd.recipes.vision``."""
    run_recipe(
        RECIPE,
        Config,
        description="Train an image classifier with Dense-Sparse-Dense training. Where no data is named, it takes a "
        "small corpus of drawn shapes and settings made for it; otherwise the settings begin from the paper's for "
        "ResNet-20.",
        without_data=embedded_settings,
        run=run,
        dry_run=dry_run,
        argv=argv,
    )


__all__ = ["Config", "RunResult", "dry_run", "main", "make_model", "make_task", "run"]

if __name__ == "__main__":
    main()
