"""Captions for images: a caption generator with its images' features, loss, search and BLEU."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqdsd.data import (
    IGNORE,
    CaptionBatch,
    CaptionBatchSampler,
    CaptionCorpus,
    CaptionedImage,
    EncodedCaptions,
    encode_captions,
    make_batch,
)
from seqdsd.decode import NextWordModel, NonFiniteCaptions, ScoredCaption, beam_captions, greedy_captions
from seqdsd.engine import Evaluation, Note, Processes
from seqdsd.metrics import Bleu, bleu, cider_d, rouge_l
from seqdsd.tasks.decoding import check_beam
from seqdsd.text import WordVocabulary
from seqdsd.vision import ImageFeatures

SAME_CAPTION_SHARE = 0.9
LOW_BLEU4 = 1.0
USUAL_EPOCHS = 3
"""In which a captioner's first phrases come right."""

MAX_WORDS = 10_000


@dataclass(frozen=True)
class SearchSettings:
    """How captions are found."""

    beam: int = 1
    """Captions kept at each word; 1 is greedy search, the original's default."""
    max_words: int = 20
    """Longest caption, as the original's."""

    def __post_init__(self) -> None:
        check_beam(self.beam)
        if not 1 <= self.max_words <= MAX_WORDS:
            raise ValueError(f"max_words must be at least 1 and at most {MAX_WORDS}, got {self.max_words}")

    def __str__(self) -> str:
        """For records: two scores that differ in this cannot be compared."""
        name = "greedy" if self.beam == 1 else f"beam {self.beam}"
        return f"{name}, at most {self.max_words} words"


class Captioner:
    """The search and the words after a caption generator."""

    def __init__(self, vocabulary: WordVocabulary, search: SearchSettings) -> None:
        self.vocabulary = vocabulary
        self.search = search

    def find(
        self, model: NextWordModel, image_features: Float[Tensor, "batch feature_size"]
    ) -> list[ScoredCaption]:
        """Each image's caption as word ids; ``model`` is bare, in evaluation mode, on the features' device."""
        start_id, end_id = self.vocabulary.start_id, self.vocabulary.end_id
        max_words = self.search.max_words
        if self.search.beam == 1:
            return greedy_captions(
                model, image_features, start_id=start_id, end_id=end_id, max_words=max_words
            )
        return beam_captions(
            model,
            image_features,
            start_id=start_id,
            end_id=end_id,
            beam_width=self.search.beam,
            max_words=max_words,
        )

    def captions(
        self, model: NextWordModel, image_features: Float[Tensor, "batch feature_size"]
    ) -> list[str]:
        """Each image's caption in words."""
        return [self.vocabulary.decode(one.tokens) for one in self.find(model, image_features)]


@dataclass
class CaptionTask:
    """The engine's task for a caption generator over fixed image features (see ``seqdsd.engine.Task``)."""

    model: nn.Module
    vocabulary: WordVocabulary
    corpus: CaptionCorpus
    """Its training captions must all hold a known word: ``seqdsd.data.check_known_words``."""
    features: ImageFeatures
    """Of all the corpus' images; those that it has skipped are left out here too."""
    batch_size: int = 100
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    pin_memory: bool = False
    processes: Processes = field(default_factory=Processes)
    """Each trains on its share of a batch, and captions its share of the images."""
    accumulate: int = 1
    """Micro-batches, at most, in which a process computes its share of a batch."""
    _encoded_splits: dict[str, EncodedCaptions] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.captioner = Captioner(self.vocabulary, self.search)
        self.skipped: dict[str, str] = {**self.corpus.skipped, **self.features.skipped}
        self._images: dict[str, list[CaptionedImage]] = {
            split: [one for one in self.corpus.split(split) if one.id in self.features.rows]
            for split in self.corpus.splits
        }
        for split, images in self._images.items():
            if not images:
                raise ValueError(
                    f"{self.corpus.path}: no image of {split} has features; see what was skipped"
                )

    @property
    def test_splits(self) -> list[str]:
        """One test set, or none where the corpus was read without it."""
        return [split for split in self._images if split == "test"]

    @property
    def num_images(self) -> dict[str, int]:
        """Images of each split."""
        return {split: len(images) for split, images in self._images.items()}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the training captions and of what the features come from."""
        digest = hashlib.blake2b(self.features.fingerprint.encode(), digest_size=16)
        for image in self._images["train"]:
            digest.update(f"{image.id}\t{image.captions}\n".encode())
        return digest.hexdigest()

    @cached_property
    def num_batches(self) -> int:
        """Batches of an epoch, the same in each."""
        return -(-len(self._encoded("train")) // self.batch_size)

    def batches(self, epoch: int, *, first: int) -> Iterator[list[CaptionBatch]]:
        """This process's share of the training batches of an epoch but the ``first`` ones, in micro-batches."""
        num_words = self._encoded("train").num_words
        sampler = CaptionBatchSampler(
            num_words, batch_size=self.batch_size, seed=self.seed, epoch=epoch, first=first
        )
        for indices in sampler:
            micro_batches = self._load("train", self.processes.micro_batches(indices, self.accumulate))
            yield [one.pin_memory() if self.pin_memory else one for one in micro_batches]

    def largest_batch(self) -> list[CaptionBatch]:
        """This process's share of the batch with the longest training captions, in micro-batches."""
        by_length = np.argsort(self._encoded("train").num_words, kind="stable").tolist()
        longest = by_length[-self.batch_size :]
        return list(self._load("train", self.processes.micro_batches(longest, self.accumulate)))

    def loss(self, model: nn.Module, batch: CaptionBatch) -> Float[Tensor, ""]:
        """Negative log-probability of a caption's words and END, summed over them and averaged over captions."""
        return _summed_loss(model, batch) / len(batch)

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        split: str,
        device: torch.device,
        *,
        after_images: Callable[[int], None] = lambda images: None,
    ) -> Evaluation:
        """Caption a split: BLEU in both variants, CIDEr-D, ROUGE-L, the mean loss and the perplexity.

        Args:
            model: The task's own, as the engine has wrapped it; the search runs on the bare one.
            split: ``dev`` or ``test``.
            device: Where the model lies.
            after_images: Told how many more images are captioned, to show progress.
        """
        model.eval()
        images = self._images[split]
        said: list[tuple[str, str]] = []
        parts = [images[start : start + 100] for start in range(0, len(images), 100)]
        for part in self.processes.every_nth(parts):
            ids = [image.id for image in part]
            said += zip(ids, self._captions_of(ids, device), strict=True)
            after_images(len(part))
        captioned = dict(self.processes.gather(said))
        captions = self._encoded(split)
        sampler = CaptionBatchSampler(captions.num_words, batch_size=self.batch_size, by_length=True)
        total = torch.zeros((), device=device)
        for batch in self._load(split, self.processes.every_nth(list(sampler))):
            total += _summed_loss(model, batch.to(device))
        loss = float(self.processes.sum_(total))
        return _judged(
            images,
            [captioned[image.id] for image in images],
            mean_loss=loss / len(captions),
            perplexity=_perplexity(loss, len(captions.words) + len(captions)),
            search=self.search,
        )

    def _captions_of(self, ids: Sequence[str], device: torch.device) -> list[str]:
        features = self.features.take(ids).to(device, non_blocking=True)
        try:
            return self.captioner.captions(self.model, features)  # type: ignore[arg-type]  # a NextWordModel it is
        except NonFiniteCaptions as error:
            raise ValueError(f"{', '.join(ids[row] for row in error.rows)}: {error}") from error

    def _encoded(self, split: str) -> EncodedCaptions:
        if split not in self._encoded_splits:
            images = self._images[split]
            rows = [self.features.rows[image.id] for image in images]
            self._encoded_splits[split] = encode_captions(images, self.vocabulary, rows=rows)
        return self._encoded_splits[split]

    def _load(self, split: str, batches: Iterable[Sequence[int]]) -> Iterator[CaptionBatch]:
        for indices in batches:
            yield make_batch(self._encoded(split), indices, self.features.array)


def _summed_loss(model: nn.Module, batch: CaptionBatch) -> Float[Tensor, ""]:
    logits = model(batch.image_features, batch.tokens).float()
    # By time, then batch, as they lie in memory: the other way round copies them, forward and backward.
    by_time = logits.transpose(0, 1).flatten(0, 1)
    return nn.functional.cross_entropy(
        by_time, batch.targets.t().flatten(), ignore_index=IGNORE, reduction="sum"
    )


def _judged(
    images: Sequence[CaptionedImage],
    hyps: Sequence[str],
    *,
    mean_loss: float,
    perplexity: float,
    search: SearchSettings,
) -> Evaluation:
    refs = [[" ".join(caption) for caption in image.captions] for image in images]
    standard = bleu(refs, hyps)
    neuraltalk = standard.without_brevity_penalty()
    cider, rouge = cider_d(refs, hyps), rouge_l(refs, hyps)
    rows = [
        {"id": image.id, "refs": one, "hyp": hyp} for image, one, hyp in zip(images, refs, hyps, strict=True)
    ]
    return Evaluation(
        loss=mean_loss,
        score=-standard.bleu4,
        headline=f"BLEU-4 {standard.bleu4:.2f}",
        metrics={
            **_bleus(standard),
            **_bleus(neuraltalk, "neuraltalk_"),
            "brevity_penalty": standard.brevity_penalty,
            "cider_d": cider.score,
            "rouge_l": rouge.score,
            "loss": mean_loss,
            "perplexity": perplexity,
            "images": len(images),
            "decoding": str(search),
            "signature": standard.signature,
            "neuraltalk_signature": neuraltalk.signature,
            "cider_d_signature": cider.signature,
            "rouge_l_signature": rouge.signature,
        },
        hypotheses=rows,
        notes=_notes(hyps, standard.bleu4),
    )


def _perplexity(loss: float, num_words: int) -> float:
    with np.errstate(over="ignore"):  # of a network that has gone astray: infinite
        return float(np.exp(np.float64(loss) / num_words))


def _bleus(score: Bleu, prefix: str = "") -> Mapping[str, float]:
    return {f"{prefix}{name}": getattr(score, name) for name in ("bleu1", "bleu2", "bleu3", "bleu4")}


def _notes(hyps: Sequence[str], bleu4: float) -> list[Note]:
    """Whether anything was learned at all; what it is not yet, in the first epochs."""
    if len(hyps) == 1:  # which says nothing of the others
        return []
    caption, count = Counter(hyps).most_common(1)[0]
    if count >= SAME_CAPTION_SHARE * len(hyps):
        found = f"{count / len(hyps):.0%} of the images get the same caption ({caption[:100]!r})"
    elif bleu4 < LOW_BLEU4:
        found = f"hardly a phrase is right (BLEU-4 {bleu4:.2f})"
    else:
        return []
    return [
        Note(
            "no phrase right",
            f"{found}. If the training loss still falls, train for more epochs (--epochs) or at a higher learning rate "
            "(--learning-rates); if it stands, at a lower one; if neither helps, see that captions and feature rows "
            "belong to their images",
            epochs=USUAL_EPOCHS,
        )
    ]
