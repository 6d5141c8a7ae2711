"""NeuralTalk with Dense-Sparse-Dense training (Han et al. 2017, section 4.4).

    python -m seqdsd.recipes.neuraltalk                                          # embedded corpus, no download
    python -m seqdsd.recipes.neuraltalk --config recipes/flickr8k/neuraltalk.toml  # Flickr8k

Where no data is named a small corpus is drawn, and the settings begin from ``neuraltalk_embedded.toml``; otherwise from
the paper's and the original NeuralTalk's. The CNN is fixed: its features are computed once, or given as a file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from rich.console import Console
from rich.markup import escape

from seqdsd.config import read_config
from seqdsd.data import CaptionCorpus, CaptionedImage, check_images_exist, check_known_words, read_captions
from seqdsd.data.synthetic import SyntheticScenes, default_cache_dir, synthetic_scenes
from seqdsd.engine import (
    AdamWSettings,
    AdaptiveSettings,
    GivenWeights,
    Processes,
    is_first_process,
    make_fabric,
)
from seqdsd.fabric import Fabric
from seqdsd.models import NeuralTalk
from seqdsd.recipes.caption_board import log_captions
from seqdsd.recipes.command import run_recipe
from seqdsd.recipes.start_weights import given_run
from seqdsd.recipes.training import RunConfig, RunResult, describe_training, make_network, train_or_resume
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.captions.changes import read_run_captions
from seqdsd.reports.captions.terminal import compare_in_terminal
from seqdsd.reports.phase_table import phase_table
from seqdsd.sparsity import CAPTION_RULES
from seqdsd.sparsity.schedule import NEURALTALK_EPOCHS, NEURALTALK_LEARNING_RATES, NEURALTALK_SPARSITIES
from seqdsd.tasks import CaptionTask, SearchSettings
from seqdsd.text import WordVocabulary
from seqdsd.vision import (
    ENCODERS,
    ImageEncoder,
    ImageFeatures,
    encode_images,
    make_encoder,
    read_feature_file,
)

RECIPE = "neuraltalk"
MAY_CHANGE_ON_RESUME = ("out", "device", "checkpoint_minutes", "on_bad_data", "encoder.batch_size")
IMAGES_SHOWN = 4
EMBEDDED_SETTINGS = Path(__file__).with_name("neuraltalk_embedded.toml")


@dataclass(frozen=True)
class EncoderSettings:
    """The frozen CNN that images are seen through."""

    name: str = "efficientnet_lite0"
    """efficientnet_lite0 comes with its weights; vgg16 is the original's (4096 features); docs/captioning.md names the
    others."""
    weights: Path | None = None
    """File with the CNN's weights, where they are not to be downloaded."""
    batch_size: int = 16
    """Images at once; more were slower on a CPU."""

    def __post_init__(self) -> None:
        if self.name not in ENCODERS:
            raise ValueError(f"there is no encoder {self.name!r}; choose one of {', '.join(ENCODERS)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class NetworkSettings:
    """The original's quirks, and what later versions changed."""

    tanh_output: bool = False
    """tanh on the cell's way out, as NeuralTalk2 and torch's LSTM have it; the original leaves it out."""
    dropout: float = 0.5
    """On the LSTM's inputs and again on its outputs."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class VocabularySettings:
    """Which words are learnt."""

    min_count: int = 5
    """Words seen fewer times in the training captions are rare."""
    rare: Literal["drop", "unknown"] = "drop"
    """Rare words are dropped from the sentence, as in the original, or read as one unknown word, which captions
    may then say."""
    share_start_end: bool = True
    """START and END are one entry of the vocabulary, as in the original."""

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Settings of a NeuralTalk run; the defaults are the paper's and the original's."""

    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = (*RunConfig.NETWORK_SETTINGS, "vocabulary", "encoder")
    SETTINGS_OF_USE: ClassVar[tuple[str, ...]] = (
        *RunConfig.SETTINGS_OF_USE,
        "features",
        "beam",
        "max_words",
        "batch_size",
    )

    data: Path | None = None
    """A dataset_NAME.json in the Karpathy split format, or the folder that holds it; scripts in data_prep/ write one.
    Without it a small corpus is drawn."""
    images: Path | None = None
    """Folder of the images; by default the one that the data names, or images/ beside it."""
    features: Path | None = None
    """Features that were computed elsewhere: .npy with a row an image, or vgg_feats.mat. Without it they are computed
    from the images, once."""
    out: Path = Path("runs/neuraltalk")
    """The run folder."""
    iters: int = 1
    """Rounds of sparse and redense phases after the first dense phase (Table 5: 1)."""
    epochs: tuple[int, ...] = NEURALTALK_EPOCHS
    """Epochs of each phase: one number for all or one a phase (Table 5: 19, 10, 6)."""
    hidden_size: int = 256
    """Units of the LSTM, and size of the image's and the words' encoding."""
    learning_rates: tuple[float, ...] = NEURALTALK_LEARNING_RATES
    """One a phase: the original's, lowered by Table 5's ratios (its own 1e-2 diverged); further phases keep the last
    ratio."""
    sparsities: tuple[float, ...] = NEURALTALK_SPARSITIES
    """One a round (Table 5: 0.8); further rounds halve the last."""
    batch_size: int = 100
    """Captions in a batch."""
    beam: int = 1
    """Captions kept at each word when dev and test are captioned; 1 is greedy search."""
    max_words: int = 20
    """Longest caption."""
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    vocabulary: VocabularySettings = field(default_factory=VocabularySettings)
    optimizer: AdaptiveSettings | AdamWSettings = field(default_factory=AdaptiveSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        _ = self.search  # raises for a beam or a length out of range

    @property
    def search(self) -> SearchSettings:
        """How dev and test are captioned."""
        return SearchSettings(beam=self.beam, max_words=self.max_words)


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
        rules=CAPTION_RULES,
        optimizer=config.optimizer,
        may_change=MAY_CHANGE_ON_RESUME,
        spelling="vocabulary",
        make_task=partial(make_task_with, config),
        save_parts=save_parts,
        make_fresh=lambda task: make_model(config, task.vocabulary, feature_size=task.features.feature_size),
        resume=resume,
        start_from=start_from,
        console=console,
    )
    if is_first_process():
        show(result.folder, result.phases, console)
    return result


def show(folder: RunFolder, phases: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the phases' scores and a few images' captions; the latter go to TensorBoard too, unless they are there."""
    captions = read_run_captions(folder, split="test" if "test" in phases[0] else "dev")
    board = folder.tensorboard / "captions"
    if not board.exists():
        log_captions(captions, board)
    console.print(phase_table(phases))
    console.print(compare_in_terminal(captions, IMAGES_SHOWN))
    command = shlex.join(["seqdsd", "compare-captions", str(folder.path)])
    console.print(f"\nAll of them, side by side: {command}", highlight=False, markup=False, soft_wrap=True)


def dry_run(config: Config, console: Console | None = None) -> None:
    """Print corpus, vocabulary, network, pruning plan and schedule; train nothing, and open no image."""
    console = console or Console()
    corpus = read_corpus(config)
    known = given_run(config, RECIPE, part="vocabulary")
    vocabulary = (
        WordVocabulary.load(known.path) if known else make_vocabulary(config.vocabulary, corpus.train)
    )
    images = ", ".join(f"{split} {len(corpus.split(split))}" for split in corpus.splits)
    console.print(f"[bold]Corpus[/bold] {escape(str(config.data or 'embedded (drawn)'))}: images {images}")
    console.print(f"[bold]Vocabulary[/bold] {vocabulary}")
    if config.features is None:
        feature_size = ENCODERS[config.encoder.name].feature_size
    else:
        device = make_fabric(config.device, config.precision).device
        feature_size = make_features(config, corpus, device)[1].feature_size
    model = make_model(config, vocabulary, feature_size=feature_size)
    describe_training(model, config, rules=CAPTION_RULES, console=console)


def make_task(
    config: Config,
    vocabulary: WordVocabulary | None = None,
    fabric: Fabric | None = None,
    given: GivenWeights | None = None,
) -> CaptionTask:
    """The network, with fresh weights or those given, and its data; without a vocabulary words are counted in the data.

    Raises:
        ValueError: For data or weights that cannot be used.
    """
    fabric = fabric or make_fabric(config.device, config.precision)
    corpus, features = make_features(config, read_corpus(config), fabric.device)
    if vocabulary is None:  # words of images that cannot be used do not count
        usable = [image for image in corpus.train if image.id in features.rows]
        vocabulary = make_vocabulary(config.vocabulary, usable)
    corpus = check_known_words(corpus, vocabulary, on_bad_data=config.on_bad_data)

    def make() -> NeuralTalk:
        model = make_model(config, vocabulary, feature_size=features.feature_size)
        model.set_output_bias(vocabulary.output_bias())
        return model

    return CaptionTask(
        model=make_network(make, config, optimizer=config.optimizer, given=given),
        vocabulary=vocabulary,
        corpus=corpus,
        features=features,
        batch_size=config.batch_size,
        search=config.search,
        seed=config.seed,
        pin_memory=config.pins_memory,
        processes=Processes.of(fabric),
        accumulate=config.accumulate,
    )


def make_task_with(
    config: Config, known: RunFolder | None, fabric: Fabric, given: GivenWeights | None
) -> CaptionTask:
    """The same with the vocabulary of a run, if one is known."""
    return make_task(config, WordVocabulary.load(known.path) if known else None, fabric, given)


def read_corpus(config: Config) -> CaptionCorpus:
    """The captions named, or those of the embedded corpus."""
    data = config.data or synthetic_scenes(SyntheticScenes())
    return read_captions(
        data, images=config.images, on_bad_data=config.on_bad_data, with_test=config.score_test
    )


def make_vocabulary(settings: VocabularySettings, images: Iterable[CaptionedImage]) -> WordVocabulary:
    """The words of the training images' captions."""
    captions = [caption for image in images for caption in image.captions]
    return WordVocabulary.build(
        captions,
        min_count=settings.min_count,
        share_start_end=settings.share_start_end,
        rare=settings.rare,
    )


def make_features(
    config: Config, corpus: CaptionCorpus, device: torch.device
) -> tuple[CaptionCorpus, ImageFeatures]:
    """The corpus without images that cannot be used, and the features of the others, computed on ``device``."""
    if config.features is not None:
        names = corpus.all_filenames
        return corpus, read_feature_file(config.features, names, on_bad_data=config.on_bad_data)
    corpus = check_images_exist(corpus, on_bad_data=config.on_bad_data)
    features = encode_images(
        read_encoder(config),
        {image.id: Path(image.path) for image in corpus.images},
        device=device,
        cache_dir=default_cache_dir(),
        batch_size=config.encoder.batch_size,
        on_bad_data=config.on_bad_data,
    )
    return corpus, features


def read_encoder(config: Config) -> ImageEncoder:
    """The frozen CNN that the settings name."""
    return make_encoder(config.encoder.name, config.encoder.weights)


def make_model(config: Config, vocabulary: WordVocabulary, *, feature_size: int) -> NeuralTalk:
    """The network, with fresh weights from torch's generator."""
    return NeuralTalk(
        vocab_size=vocabulary.vocab_size,
        feature_size=feature_size,
        hidden_size=config.hidden_size,
        tanh_output=config.network.tanh_output,
        dropout=config.network.dropout,
    )


def embedded_settings() -> Config:
    """Settings for the embedded corpus: small enough for a few minutes on two CPU cores."""
    return read_config(EMBEDDED_SETTINGS, Config())


def save_parts(task: CaptionTask, path: Path) -> Mapping[str, str]:
    """Write what a run's weights need beside them, and where its images are."""
    task.vocabulary.save(path)
    judged = [*task.corpus.dev, *task.corpus.test]
    write_json_lines(RunFolder(path).images, [{"id": one.id, "path": one.path} for one in judged])
    return {}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m seqdsd.recipes.neuraltalk``."""
    run_recipe(
        RECIPE,
        Config,
        description="Train a NeuralTalk image captioner with Dense-Sparse-Dense training. Where no data is named, it "
        "takes a small corpus of drawn scenes and settings made for it; otherwise the settings begin from the paper's "
        "and the original NeuralTalk's.",
        without_data=embedded_settings,
        run=run,
        dry_run=dry_run,
        argv=argv,
    )


__all__ = ["Config", "RunResult", "dry_run", "main", "make_model", "make_task", "make_vocabulary", "run"]

if __name__ == "__main__":
    main()
