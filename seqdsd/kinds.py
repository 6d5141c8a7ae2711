"""The kinds of networks that are trained here: what each, its items and its scores are called, for all who ask.

Only names. What a kind does is said once a floor: in its task (``seqdsd.tasks``), its use (``inference.networks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Number = float | int

NONE = "-"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Metric:
    """A score of a split.

    Attributes:
        key: Its name in a record.
        title: Its name in tables.
        scale: From the record to the table.
        decimals: In the table.
        is_error: Lower is better.
        unit: What follows a number in prose.
    """

    key: str
    title: str
    scale: int
    decimals: int
    is_error: bool
    unit: str

    def of(self, record: Mapping[str, Any], split: str) -> Number | None:
        """The phase's score; None where it has none."""
        return (record.get(split) or {}).get(self.key)

    def gain(self, before: Number, after: Number) -> Number:
        """How much better a score has become: above 0 is better, whichever way the score points."""
        return before - after if self.is_error else after - before

    def written(self, value: Number | None) -> str:
        """A cell: points, without their unit; never -0.0."""
        return NONE if value is None else f"{self.scale * value:z.{self.decimals}f}"


def _bleus(prefix: str, title: str) -> tuple[Metric, ...]:
    return tuple(Metric(f"{prefix}bleu{n}", f"{title}-{n}", 1, 1, False, "") for n in (1, 2, 3, 4))


WER = Metric("wer", "WER", 100, 2, True, "%")
BLEU = _bleus("", "BLEU")
NEURALTALK_BLEU = _bleus("neuraltalk_", "NeuralTalk BLEU")
TOP1_ERROR = Metric("top1_error", "Top-1 error", 100, 2, True, "%")
TOP5_ERROR = Metric("top5_error", "Top-5 error", 100, 2, True, "%")


@dataclass(frozen=True, eq=False)
class Kind:
    """What networks of one kind are for.

    Attributes:
        name: As in JSON and in pages.
        title: What the network makes, as a table of several kinds says it.
        networks: Names of the networks by the recipe that trains them; see ``network_name``.
        description: What a run has trained and what to use it with, for a sentence.
        item: What is scored, one of them.
        items_title: Over what the network says of each item.
        medium: What shows an item in a page.
        said: What the network says of items, together.
        refs_key: Where a hypothesis has what is right: ``ref``, a string, or ``refs``, several.
        paper_table: The paper's table that a run's phases are set like.
        families: Scores that share a table; the first is the standard one.
        primary: The score that a sentence or a row about a run is about.
        has_word_errors: Words are aligned with those of one reference, and counted.
        pair_test: What decides, beside the bootstrap, between two networks on the same items; None: the bootstrap.
    """

    name: str
    title: str
    networks: Mapping[str, str]
    description: str
    item: str
    items_title: str
    medium: str
    said: str
    refs_key: str
    paper_table: int
    families: tuple[tuple[Metric, ...], ...]
    primary: Metric
    has_word_errors: bool
    pair_test: Literal["mapsswe", "mcnemar"] | None

    def network_name(self, recipe: str, settings: Mapping[str, Any]) -> str:
        """What a run's network is called: by its settings where its recipe trains several, else by its recipe."""
        chosen = settings.get("network")
        return NETWORKS.get(chosen, chosen) if isinstance(chosen, str) else self.networks.get(recipe, recipe)

    @property
    def counted(self) -> str:
        """The key under which scores say how many items they are of."""
        return f"{self.item}s"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All scores."""
        return tuple(metric for family in self.families for metric in family)


SPEECH = Kind(
    name="speech",
    title="Speech",
    networks={"ds1": "DeepSpeech 1", "ds2": "DeepSpeech 2"},
    description="a recogniser; use seqdsd transcribe or seqdsd evaluate",
    item="utterance",
    items_title="Utterances",
    medium="recording",
    said="hypotheses",
    refs_key="ref",
    paper_table=7,
    families=((WER,),),
    primary=WER,
    has_word_errors=True,
    pair_test="mapsswe",
)
CAPTIONS = Kind(
    name="captions",
    title="Captions",
    networks={"neuraltalk": "NeuralTalk"},
    description="a captioner; use seqdsd caption or seqdsd evaluate",
    item="image",
    items_title="Captions",
    medium="picture",
    said="captions",
    refs_key="refs",
    paper_table=5,
    families=(BLEU, NEURALTALK_BLEU),
    primary=BLEU[3],
    has_word_errors=False,
    pair_test=None,
)
CLASSIFICATION = Kind(
    name="classification",
    title="Vision",
    networks={"vision": "Image classifier"},
    description="an image classifier; use seqdsd classify or seqdsd evaluate",
    item="image",
    items_title="Images",
    medium="picture",
    said="classes",
    refs_key="ref",
    paper_table=4,
    families=((TOP1_ERROR, TOP5_ERROR),),
    primary=TOP1_ERROR,
    has_word_errors=False,
    pair_test="mcnemar",
)
KINDS = (SPEECH, CAPTIONS, CLASSIFICATION)
KIND_OF_RECIPE = {recipe: kind for kind in KINDS for recipe in kind.networks}
"""The kind of what a recipe trains."""

NETWORKS = {
    "lenet5": "LeNet-5",
    "lenet300": "LeNet-300-100",
    "googlenet": "GoogLeNet",
    "vgg16": "VGG-16",
    "alexnet": "AlexNet",
    "squeezenet1_0": "SqueezeNet 1.0",
    "squeezenet1_1": "SqueezeNet 1.1",
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (8, 18, 20, 32, 44, 50, 56)},
}
"""Names of networks that settings call otherwise."""
CORPORA = {
    "an4": "AN4",
    "flickr8k": "Flickr8k",
    "mnist": "MNIST",
    "mnist-5000": "5,000 digits of MNIST",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
}
"""Names of corpora that are written otherwise than their folders."""


def kind_of_scores(scores: Mapping[str, Any]) -> Kind | None:
    """The kind that is scored so; None where it is none known here."""
    return next((kind for kind in KINDS if kind.primary.key in scores), None)
