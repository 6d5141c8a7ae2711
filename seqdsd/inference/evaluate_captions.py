"""``seqdsd evaluate`` for captioners: BLEU in both variants, CIDEr-D, ROUGE-L and perplexity, as the run itself scores.

Only the images of the split that is judged need be there, or have usable rows in a feature file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqdsd.data import CaptionCorpus, CaptionedImage, OnBadData, read_captions
from seqdsd.data.synthetic import SyntheticScenes, default_cache_dir, synthetic_scenes
from seqdsd.inference.scoring import Evaluate, Scores, Scoring, print_facts, print_remarks, progress_bar
from seqdsd.inference.trained import TrainedCaptioner, load_encoder
from seqdsd.tasks import CaptionTask
from seqdsd.vision import ENCODERS, FeatureError, ImageFeatures, encode_images, read_feature_file

_DESCRIPTION = """Score a trained captioner: BLEU-1 to BLEU-4, standard and as NeuralTalk counts, CIDEr-D, ROUGE-L and \
perplexity, as its own run scores.

Examples:
  seqdsd evaluate runs/flickr8k
  seqdsd evaluate runs/flickr8k --beam 20 --phase "Sparse Iter 1" --hyps hyps.jsonl
  seqdsd evaluate runs/flickr8k --data data/flickr30k --split dev
"""


@dataclass(frozen=True)
class EvaluateCaptions(Evaluate):
    """What to score, and with which weights."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A dataset_NAME.json, or the folder that holds it; by default the data that the run was trained on."""
    split: Literal["test", "dev"] = "test"
    """Which images."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the images are, to compute features from; by default where the data says, or the run's --images."""
    features: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Features of the data's images; by default the run's own, unless --data, --images, --encoder or --weights is
    given."""
    encoder: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help=f"CNN for features that must be computed; by default the run's. One of {', '.join(ENCODERS)}.",
        ),
    ] = None
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The CNN's weights, where they are not to be downloaded; by default the run's."""
    beam: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Captions kept at each word; 1 is greedy search. By default the run's own."""
    max_words: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Longest caption; by default the run's own."""

    @property
    def search(self) -> dict[str, Any]:
        """See there."""
        return {"beam": self.beam, "max_words": self.max_words}

    def __post_init__(self) -> None:
        if self.features and (self.images or self.encoder or self.weights):
            raise ValueError(
                "features: with --features none are computed; leave out --images, --encoder, --weights"
            )


def score_captions(trained: TrainedCaptioner, asked: EvaluateCaptions, console: Console) -> Scores:
    """Score a captioner on a split, by the search that it was loaded with.

    Raises:
        ValueError: For a caption file, image or features that cannot be used; the message says what to do.
    """
    on_bad_data = asked.on_bad_data or trained.config.on_bad_data
    task = _make_task(asked, trained, on_bad_data)
    with progress_bar(console) as progress:
        bar = progress.add_task(
            escape(f"{trained.phase['name']} on {asked.split}"), total=task.num_images[asked.split]
        )
        evaluation = task.evaluate(
            trained.model, asked.split, trained.device, after_images=partial(progress.advance, bar)
        )
    return Scores(trained.phase, {asked.split: evaluation}, task.skipped)


def print_caption_scores(scores: Scores, command: str, console: Console) -> None:
    """Print a table of both BLEUs, the other scores, and what they depend on."""
    table = Table("set", "BLEU", "1", "2", "3", "4", box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    [(split, one)] = scores.evaluations.items()
    found = one.metrics
    table.add_row(split, "standard", *_cells(found, "bleu"))
    table.add_row("", "NeuralTalk's (no brevity penalty)", *_cells(found, "neuraltalk_bleu"))
    console.print(table)
    print_remarks(scores, console)
    facts = {
        "CIDEr-D": f"{found['cider_d']:.3f}",
        "ROUGE-L": f"{found['rouge_l']:.3f}",
        "perplexity": f"{found['perplexity']:.2f} a word, END included",
        "brevity": f"penalty {found['brevity_penalty']:.3f}, in the standard BLEU",
        "images": str(found["images"]),
        "phase": scores.phase["name"],
        "decoding": found["decoding"],
        "signature": found["signature"],
        "command": command,
    }
    print_facts(facts, console)


def _make_task(asked: EvaluateCaptions, trained: TrainedCaptioner, on_bad_data: OnBadData) -> CaptionTask:
    config = trained.config
    corpus = read_captions(
        asked.data or trained.saved.data(config) or synthetic_scenes(SyntheticScenes()),
        images=asked.images or (None if asked.data else config.images),
        on_bad_data=on_bad_data,
        with_test=asked.split == "test",
    )
    images = corpus.split(asked.split)
    features = _make_features(asked, trained, corpus, images, on_bad_data)
    return CaptionTask(
        model=trained.model.module,
        vocabulary=trained.captioner.vocabulary,
        corpus=replace(corpus, splits=(asked.split,), skipped=corpus.skipped_of(asked.split)),
        features=features,
        batch_size=trained.config.batch_size,
        search=trained.captioner.search,
        processes=trained.processes,
    )


def _make_features(
    asked: EvaluateCaptions,
    trained: TrainedCaptioner,
    corpus: CaptionCorpus,
    images: Sequence[CaptionedImage],
    on_bad_data: OnBadData,
) -> ImageFeatures:
    """From the file asked for, or the run's own where nothing else is asked for; else computed from the images."""
    is_own = not (asked.data or asked.images or asked.encoder or asked.weights)
    path = asked.features or (trained.config.features if is_own else None)
    if path is not None:
        judged = {image.id for image in images}
        # The others keep their places, as rows may go by position, but nothing is asked of their rows.
        names = [name if name in judged else "" for name in corpus.all_filenames]
        features = read_feature_file(path, names, on_bad_data=on_bad_data)
        return _check_size(features, path, trained)
    return encode_images(
        load_encoder(trained, asked.encoder, asked.weights),
        {image.id: Path(image.path) for image in images},
        device=trained.device,
        cache_dir=default_cache_dir(),
        batch_size=trained.config.encoder.batch_size,
        on_bad_data=on_bad_data,
    )


def _check_size(features: ImageFeatures, path: Path, trained: TrainedCaptioner) -> ImageFeatures:
    if features.feature_size != trained.feature_size:
        raise FeatureError(
            f"{path}: features of size {features.feature_size}, and {trained.saved.path} was trained on those of size "
            f"{trained.feature_size}. Give features of the same CNN by --features, or let them be computed: --images"
        )
    return features


def _cells(metrics: Any, prefix: str) -> list[str]:
    return [f"{metrics[f'{prefix}{order}']:.1f}" for order in (1, 2, 3, 4)]


SCORING = Scoring(EvaluateCaptions, _DESCRIPTION, score_captions, print_caption_scores)
