"""Training steps on pretended CUDA tensors: no device mix-up, no wait but the one read every ten steps."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import pytest
import torch
from pretended import PretendedCuda, pretended_fabric

from seqdsd.engine import AdamWSettings, AdaptiveSettings, NesterovSettings
from seqdsd.engine.loop import READ_EVERY_STEPS, LossMeter, train_epoch
from seqdsd.engine.memory import try_largest_batch
from seqdsd.fabric import Fabric
from seqdsd.sparsity import CAPTION_RULES, SPEECH_RULES, VISION_RULES, MaskSet, resolve
from seqdsd.tasks import AugmentSettings
from seqdsd.tasks.classification import VariationSettings

READ = "seqdsd/engine/loop.py _read"
NETWORKS = [
    *("ds1", "ds1, batch norm", "ds1, recomputed", "ds2", "ds2, gru", "ds2, lstm"),
    *("ds2, row convolution", "ds2, recomputed"),
]
OPTIMIZERS = {
    "nesterov": NesterovSettings(momentum=0.9, weight_decay=1e-3, clip_norm=1.0),
    "adamw": AdamWSettings(clip_norm=1.0),
    "rmsprop": AdaptiveSettings(),
    "adam": AdaptiveSettings(kind="adam"),
}


def with_batches(task: Any, steps: int) -> Any:
    """The task with a certain number of batches an epoch.

    A copy: from Python 3.12 on, one that hands all else on by ``__getattr__`` is no instance of the protocol.
    """

    def batches(epoch: int, *, first: int) -> Iterator[Any]:
        return islice(cycle(task.batches(epoch, first=first)), steps)

    few = copy(task)
    few.batches = batches
    return few


@dataclass(frozen=True)
class Trained:
    meter: LossMeter
    weights: dict[str, torch.Tensor]
    waits: list[str]


def train(
    task: Any, settings: Any, device: str, *, steps: int = 2, rules: Any = (), precision: str = "32-true"
) -> Trained:
    """An epoch as the engine trains it, under masks where there are rules; on the CPU or the pretended GPU."""
    with ExitStack() as stack:
        cuda = stack.enter_context(PretendedCuda(READ)) if device == "cuda" else None
        fabric = pretended_fabric(precision) if cuda else Fabric(accelerator="cpu", precision=precision)
        meter, own = LossMeter(), None
        with cuda.between_steps() if cuda else nullcontext():
            model = fabric.setup_module(task.model)
            own = settings.make(task.model.parameters(), 1e-3)
            optimizer = fabric.setup_optimizers(own)
            if rules:
                masks = MaskSet.from_magnitude(task.model, resolve(task.model, rules, 0.5))
                stack.callback(masks.attach(own).remove)

        def set_rate(step: int) -> None:
            for group in own.param_groups:
                group["lr"] = settings.rate(1e-3, epochs=1, epoch=0, step=step, num_batches=steps)

        train_epoch(
            *(fabric, model, optimizer, with_batches(task, steps)),
            epoch=1,
            first=0,
            seed=0,
            settings=settings,
            meter=meter,
            before_step=set_rate,
            after_step=lambda step: None,
        )
        with cuda.between_steps() if cuda else nullcontext():
            weights = {name: one.cpu().clone() for name, one in task.model.state_dict().items()}
            assert all(one.device.type == device for one in task.model.state_dict().values())
        return Trained(meter, weights, cuda.waits if cuda else [])


def assert_same(one: Trained, other: Trained) -> None:
    assert one.meter.steps == other.meter.steps and one.meter.bad_steps == other.meter.bad_steps == 0
    assert one.meter.mean == pytest.approx(other.meter.mean, rel=1e-4)
    for name, weight in one.weights.items():
        torch.testing.assert_close(weight, other.weights[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_recognisers_train_as_on_the_cpu(make_speech_task, network):
    on_gpu, on_cpu = (
        train(make_speech_task(network), OPTIMIZERS["nesterov"], device) for device in ("cuda", "cpu")
    )
    assert_same(on_gpu, on_cpu)
    assert on_gpu.waits == [READ]  # at the epoch's end


@pytest.mark.parametrize("tanh_output", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captioners_train_as_on_the_cpu(make_caption_task, optimizer, tanh_output):
    on_gpu, on_cpu = (
        train(make_caption_task(tanh_output=tanh_output), OPTIMIZERS[optimizer], device)
        for device in ("cuda", "cpu")
    )
    assert_same(on_gpu, on_cpu)
    assert on_gpu.waits == [READ]


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
def test_classifiers_train_as_on_the_cpu_under_masks_and_with_variations(make_class_task, optimizer):
    options = {"variations": VariationSettings(crop_padding=2, flip=True), "label_smoothing": 0.1}
    on_gpu, on_cpu = (
        train(make_class_task(**options), OPTIMIZERS[optimizer], device, rules=VISION_RULES)
        for device in ("cuda", "cpu")
    )
    assert_same(on_gpu, on_cpu)
    assert float((on_gpu.weights["output.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert on_gpu.waits == [READ]


def test_auxiliary_classifiers_on_the_device(make_class_task):
    """Dropout draws other numbers there; it must only run."""
    trained = train(make_class_task("googlenet", side=47), OPTIMIZERS["nesterov"], "cuda")
    assert trained.meter.steps == 2 and math.isfinite(trained.meter.mean)
    assert trained.waits == [READ]


def test_losses_are_read_every_ten_steps(make_caption_task):
    trained = train(make_caption_task(), OPTIMIZERS["rmsprop"], "cuda", steps=2 * READ_EVERY_STEPS + 3)
    assert trained.meter.steps == 2 * READ_EVERY_STEPS + 3
    assert trained.waits == [READ] * 3


@pytest.mark.parametrize("network", ["ds1", "ds2", "ds2, lstm"])
def test_sparse_steps_of_recognisers(make_speech_task, network):
    on_gpu, on_cpu = (
        train(make_speech_task(network), OPTIMIZERS["nesterov"], device, rules=SPEECH_RULES)
        for device in ("cuda", "cpu")
    )
    assert_same(on_gpu, on_cpu)
    zeros = [
        name
        for name, weight in on_gpu.weights.items()
        if (weight == 0).float().mean() > 0.4 and weight.ndim > 1
    ]
    assert zeros and on_gpu.waits == [READ]


def test_sparse_steps_of_captioners(make_caption_task):
    on_gpu, on_cpu = (
        train(make_caption_task(), OPTIMIZERS["rmsprop"], device, rules=CAPTION_RULES)
        for device in ("cuda", "cpu")
    )
    assert_same(on_gpu, on_cpu)
    assert float((on_gpu.weights["lstm.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert on_gpu.waits == [READ]


def test_dropout_masks_and_micro_batches(make_speech_task, make_caption_task):
    """What draws random numbers draws others on a GPU; it must only run there."""
    augment = AugmentSettings(spec_augment=True, speed_factors=(0.9, 1.0, 1.1))
    speech = make_speech_task("ds1, dropout", augment=augment, accumulate=2)
    for task, optimizer in ((speech, "nesterov"), (make_caption_task(dropout=0.5, accumulate=2), "rmsprop")):
        trained = train(task, OPTIMIZERS[optimizer], "cuda")
        assert trained.meter.steps == 2 and math.isfinite(trained.meter.mean)
        assert trained.waits == [READ]


@pytest.mark.parametrize("network", ["ds1", "ds2", "captions"])
def test_steps_in_bfloat16(make_speech_task, make_caption_task, network):
    task = make_caption_task() if network == "captions" else make_speech_task(network)
    trained = train(task, OPTIMIZERS["nesterov"], "cuda", precision="bf16-mixed")
    assert trained.meter.steps == 2 and math.isfinite(trained.meter.mean)
    assert all(one.dtype != torch.bfloat16 for one in trained.weights.values())
    assert trained.waits == [READ]


def test_a_step_that_is_not_finite_is_skipped_without_a_wait(make_speech_task):
    task = make_speech_task("ds1, batch norm")
    before = {name: one.clone() for name, one in task.model.state_dict().items()}
    with torch.no_grad():
        task.model.fc1[0].weight[0, 0] = before["fc1.0.weight"][0, 0] = math.inf
    trained = train(task, OPTIMIZERS["nesterov"], "cuda")
    assert (trained.meter.steps, trained.meter.bad_steps) == (0, 2) and trained.waits == [READ]
    for name, weight in trained.weights.items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, msg=name)


def test_the_largest_batch_is_tried_on_the_device(make_speech_task, monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12)
    task = make_speech_task()
    with PretendedCuda() as cuda:
        fabric = pretended_fabric()
        with cuda.between_steps():
            model = fabric.setup_module(task.model)
        assert try_largest_batch(fabric, model, task).num_bytes == 12
