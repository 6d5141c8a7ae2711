"""Image classification: pixels to a network's input, cross entropy, top-1 and top-5 error.

What varies in training, crops and mirror images, is done on the device, a batch at once. Leaves out which images there
are (``seqdsd.data.labelled_images``) and the networks (``seqdsd.models.classifiers``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from seqdsd.data.labelled_images import (
    ImageBatch,
    ImageBatchSampler,
    ImageFormat,
    ImageSource,
    LabelledImage,
    draw_variations,
)
from seqdsd.engine import Evaluation, Note, Processes
from seqdsd.models import split_logits
from seqdsd.records import RunFolderError, write_atomically

AUXILIARY_WEIGHT = 0.3
"""Of GoogLeNet's auxiliary classifiers in the loss (Szegedy et al. 2015, section 5)."""
TOP = 5
CLASSES_FILE = "classes.json"

SAME_CLASS_SHARE = 0.9
USUAL_EPOCHS = 3
"""In which a network stops to say the same of every image."""


@dataclass(frozen=True)
class VariationSettings:
    """Variation of the training images, drawn anew in each epoch; all of it off by default."""

    crop_padding: int = 0
    """Images are moved up to so many pixels up or down, left or right, over black; 4 is usual for 32 x 32."""
    flip: bool = False
    """Every other image is mirrored. Not for digits and letters."""
    resized_crop: bool = False
    """A part of random size and proportions is cut out of each image, as usual for photographs."""

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must not be negative, got {self.crop_padding}")


@dataclass(frozen=True)
class Normalisation:
    """What brings each channel's brightness near mean 0 and deviation 1; full brightness is 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation) or not all(one > 0 for one in self.deviation):
            raise ValueError(
                f"there must be a mean and a deviation above 0 a channel, got {self.mean}, {self.deviation}"
            )


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet's colours: what torchvision's weights expect."""


class Pixels(nn.Module):
    """8-bit images to what a network takes; on the images' device."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        mean, deviation = (
            torch.tensor(one)[:, None, None] for one in (normalisation.mean, normalisation.deviation)
        )
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", -mean / deviation, persistent=False)

    def forward(
        self, images: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Less the mean and over the deviation of each channel."""
        return torch.addcmul(self.shift, images.float(), self.scale)


class Labeller:
    """What comes before a classifier, pixels, and after it, the names of classes.

    Attributes:
        classes: Names of the outputs, in their order.
        format: What images are brought to.
        normalisation: Of their brightness.
        pixels: What applies it.
    """

    def __init__(
        self, classes: Sequence[str], image_format: ImageFormat, normalisation: Normalisation
    ) -> None:
        self.classes = tuple(classes)
        self.format = image_format
        self.normalisation = normalisation
        self.pixels = Pixels(normalisation)

    @property
    def num_tops(self) -> int:
        """How many classes are named of each image."""
        return min(TOP, len(self.classes))

    @property
    def signature(self) -> str:
        """What two scores must have in common to be compared."""
        one = self.format
        seen = "centre" if one.resize is None else f"centre of {one.resize}"
        return f"classes:{len(self.classes)}|images:{one.channels}x{one.height}x{one.width}|seen:{seen}"

    def logits(
        self, model: nn.Module, images: UInt8[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], tuple[Float[Tensor, "batch classes"], ...]]:
        """Logits on the images' device, as float32, and those of auxiliary classifiers, which speak in training."""
        pixels = self.pixels.to(images.device, non_blocking=True)
        logits, auxiliary = split_logits(model(pixels(images)))
        return logits.float(), tuple(one.float() for one in auxiliary)

    def tops(
        self, logits: Float[Tensor, "batch classes"]
    ) -> tuple[Float[Tensor, "batch tops"], Int[Tensor, "batch tops"]]:
        """Probabilities of the likeliest classes, descending, and which they are."""
        # By the logits: of a network that is sure, all probabilities but the first are 0, and no order is left.
        indices = logits.topk(self.num_tops).indices
        return logits.softmax(1).gather(1, indices), indices

    def said(self, probabilities: Sequence[float], indices: Sequence[int]) -> list[dict[str, Any]]:
        """The likeliest classes of an image by name."""
        pairs = zip(probabilities, indices, strict=True)
        return [{"class": self.classes[index], "probability": round(one, 4)} for one, index in pairs]

    def to_json(self) -> dict[str, Any]:
        """All that ``from_json`` needs."""
        return {
            "classes": list(self.classes),
            "format": asdict(self.format),
            "normalisation": asdict(self.normalisation),
        }

    @classmethod
    def from_json(cls, values: Any) -> Labeller:
        """The labeller that ``to_json`` described.

        Raises:
            ValueError, TypeError, KeyError, OverflowError: If it is no such description.
        """
        normalisation, format_ = values["normalisation"], ImageFormat(**values["format"])
        classes = values["classes"]
        if not isinstance(classes, list) or not classes or not all(isinstance(one, str) for one in classes):
            raise ValueError("classes must be names")
        means, deviations = (tuple(map(float, normalisation[name])) for name in ("mean", "deviation"))
        if len(means) != format_.channels or not all(map(math.isfinite, (*means, *deviations))):
            raise ValueError(f"there must be a finite mean and deviation a channel, got {normalisation}")
        return cls(classes, format_, Normalisation(means, deviations))

    def save(self, folder: Path) -> None:
        """Write it where ``load`` finds it."""
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        write_atomically(folder / CLASSES_FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Labeller:
        """Read what a run's folder says.

        Raises:
            RunFolderError: If the file is missing or damaged.
        """
        path = folder / CLASSES_FILE
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunFolderError(
                f"{path}: missing, so what the outputs mean is unknown; bring it back"
            ) from None
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise RunFolderError(f"{path}: damaged ({error}); bring it back") from error


@dataclass
class ClassificationTask:
    """The engine's task for an image classifier (see ``seqdsd.engine.Task``)."""

    model: nn.Module
    labeller: Labeller
    sources: Mapping[str, ImageSource]
    """The images of ``train``, ``dev`` and ``test``; or, to be judged alone, of one."""
    batch_size: int = 128
    variations: VariationSettings = field(default_factory=VariationSettings)
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    seed: int = 0
    processes: Processes = field(default_factory=Processes)
    """Each trains on its share of a batch, and evaluates its share of the batches."""
    accumulate: int = 1
    """Micro-batches, at most, in which a process computes its share of a batch; batch norm sees one at a time."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the corpus was read without: to the reason."""

    @property
    def test_splits(self) -> list[str]:
        """One test set, or none where the corpus was read without it."""
        return [split for split in self.sources if split == "test"]

    @property
    def num_images(self) -> dict[str, int]:
        """Images of each split."""
        return {split: len(source.images) for split, source in self.sources.items()}

    @property
    def skipped(self) -> dict[str, str]:
        """See ``seqdsd.engine.Task``."""
        found = {
            f"{split}/{id_}": reason
            for split, source in self.sources.items()
            for id_, reason in source.skipped.items()
        }
        return {**self.left_out, **found}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the training images' names and classes, and of what they are brought to."""
        digest = hashlib.blake2b(f"{self.labeller.classes} {self.labeller.format}".encode(), digest_size=16)
        for image in self.sources["train"].images:
            digest.update(f"{image.id}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @cached_property
    def num_batches(self) -> int:
        """Batches of an epoch, the same in each."""
        return len(self._sampler())

    def batches(self, epoch: int, *, first: int) -> Iterator[list[ImageBatch]]:
        """This process's share of the training batches of an epoch but the ``first`` ones, in micro-batches.

        Raises:
            BadDataError: If an image cannot be read, unless it is to be skipped.
        """
        source = self.sources["train"]
        drawn = draw_variations(len(source.images), seed=self.seed, epoch=epoch, **asdict(self.variations))
        plan = [
            self.processes.micro_batches(one, self.accumulate) for one in self._sampler(epoch, first=first)
        ]
        loaded = source.batches([one for micro_batches in plan for one in micro_batches], variations=drawn)
        for micro_batches in plan:
            yield [self._not_missed(next(loaded)) for _ in micro_batches]

    def largest_batch(self) -> list[ImageBatch]:
        """This process's share of a batch as large as any, of black images, in micro-batches."""
        num_images = len(self.sources["train"].images)
        size = -(-num_images // self.num_batches)  # batches differ by one image at most
        return [self._black(len(one)) for one in self.processes.micro_batches(range(size), self.accumulate)]

    def _black(self, count: int) -> ImageBatch:
        one = self.labeller.format
        return ImageBatch(
            ids=tuple(f"black {number}" for number in range(count)),
            images=torch.zeros(max(1, count), one.channels, one.height, one.width, dtype=torch.uint8),
            labels=torch.zeros(max(1, count), dtype=torch.long),
        )

    def _not_missed(self, batch: ImageBatch) -> ImageBatch:
        """Something to compute on, of several processes, where nothing could be read: the others wait."""
        return self._black(0) if len(batch) == 0 and self.processes.count > 1 else batch

    def loss(self, model: nn.Module, batch: ImageBatch) -> Float[Tensor, ""]:
        """Cross entropy an image, of smoothed labels if asked for; 0.3 times that of each auxiliary classifier more."""
        logits, auxiliary = self.labeller.logits(model, batch.varied())
        loss = self._cross_entropy(logits, batch)
        for one in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * self._cross_entropy(one, batch)
        return loss

    def _cross_entropy(self, logits: Float[Tensor, "batch classes"], batch: ImageBatch) -> Float[Tensor, ""]:
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        split: str,
        device: torch.device,
        *,
        after_images: Callable[[int], None] = lambda images: None,
    ) -> Evaluation:
        """Classify a split: top-1 and, of more than five classes, top-5 error with their counts; the mean loss.

        Args:
            model: The task's own, as the engine has wrapped it.
            split: One of the sources.
            device: Where the model lies.
            after_images: Told how many more images are classified, to show progress.

        Raises:
            BadDataError: If an image cannot be read, unless it is to be skipped.
            ValueError: If none can.
        """
        model.eval()
        source = self.sources[split]
        sampler = ImageBatchSampler(len(source.images), batch_size=self.batch_size, shuffled=False)
        ids: list[str] = []
        found: list[Float[Tensor, "batch numbers"]] = []
        total = torch.zeros((), device=device)
        for batch in source.batches(self.processes.every_nth(list(sampler))):
            if len(batch):
                batch = batch.to(device)
                logits, _ = self.labeller.logits(model, batch.images)
                total += nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
                ids += batch.ids
                found.append(torch.column_stack((*self.labeller.tops(logits), batch.labels)))
                after_images(len(batch))
        own = torch.cat(found).tolist() if found else []  # one copy of all from the device
        judged = self.processes.gather(list(zip(ids, own, strict=True)))
        if not judged:
            raise ValueError(f"no image of {split} can be read; see what was skipped")
        loss = float(self.processes.sum_(total)) / len(judged)
        by_id = dict(judged)
        rows = [(judged_id(image), by_id[image.id]) for image in source.images if image.id in by_id]
        return _judged(rows, self.labeller, mean_loss=loss)

    def _sampler(self, epoch: int = 0, *, first: int = 0) -> ImageBatchSampler:
        return ImageBatchSampler(
            len(self.sources["train"].images),
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            first=first,
        )


def judged_id(image: LabelledImage) -> str:
    """The image's name in records, with its set's folder: dev and test may have images of the same name."""
    return f"{image.path.parts[-2 - image.id.count('/')]}/{image.id}"


def _judged(
    found: Sequence[tuple[str, Sequence[float]]], labeller: Labeller, *, mean_loss: float
) -> Evaluation:
    """Of each image its id, the probabilities of its likeliest classes, which they are, and which is right."""
    count, most = len(found), labeller.num_tops
    images = [
        # NaN is no answer, and least of all the right one.
        (id_, one[:most], list(map(int, one[most:-1])) if math.isfinite(one[0]) else [], int(one[-1]))
        for id_, one in found
    ]
    wrong = sum(tops[:1] != [label] for _, _, tops, label in images)
    metrics: dict[str, Any] = {"top1_error": wrong / count, "top1_errors": wrong}
    if len(labeller.classes) > TOP:
        missed = sum(label not in tops for _, _, tops, label in images)
        metrics |= {"top5_error": missed / count, "top5_errors": missed}
    answers = [tops[0] if tops else None for _, _, tops, _ in images]
    return Evaluation(
        loss=mean_loss,
        score=wrong / count,
        headline=f"top-1 error {100 * wrong / count:.2f} %",
        metrics={**metrics, "loss": mean_loss, "images": count, "signature": labeller.signature},
        hypotheses=_Rows(images, labeller),
        notes=_notes(answers, [label for *_, label in images], labeller.classes),
    )


class _Rows(Sequence[dict[str, Any]]):
    """What is recorded of each image, made as it is read: of most epochs only the counts are."""

    def __init__(
        self, images: Sequence[tuple[str, Sequence[float], Sequence[int], int]], labeller: Labeller
    ) -> None:
        self._images = images
        self._labeller = labeller

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        id_, probabilities, tops, label = self._images[index]
        return {
            "id": id_,
            "ref": self._labeller.classes[label],
            "hyp": self._labeller.classes[tops[0]] if tops else "",
            f"top{TOP}": self._labeller.said(probabilities, tops) if tops else [],
        }


def _notes(answers: Sequence[int | None], labels: Sequence[int], classes: Sequence[str]) -> list[Note]:
    """Whether anything was learned at all, by the classes that images are taken for, and those they have."""
    if without := sum(answer is None for answer in answers):
        return [
            Note(
                "no numbers",
                f"for {without:,} of {len(answers):,} images the network gives NaN or infinity, and so no class, which "
                "counts as wrong. Take another phase's weights, or train anew at a lower learning rate "
                "(--learning-rates)",
            )
        ]
    (said, count), (_, most) = (Counter(one).most_common(1)[0] for one in (answers, labels))
    assert said is not None  # or it would have returned
    enough = SAME_CLASS_SHARE * len(answers)
    if len(answers) == 1 or count < enough or most >= enough:
        return []
    return [
        Note(
            "the same of all",
            f"{count / len(answers):.0%} of the images are taken for {classes[said][:100]!r}. If the training loss "
            "still falls, train for more epochs (--epochs) or at a higher learning rate (--learning-rates); if it "
            "stands, at a lower one; if neither helps, see that images lie in the folders of their classes",
            epochs=USUAL_EPOCHS,
        )
    ]
