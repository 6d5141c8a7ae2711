"""What must hold in every trainer: a loop of one's own, Hugging Face's Trainer, Lightning's, and our engine.

Each trains the cases that are told here, and is watched from outside, by hooks of torch's own.
"""

import copy
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import pytest
import torch
from forked import run_together
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from rich.console import Console
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from seqdsd.engine import DSDTraining, Evaluation, NesterovSettings, Processes, TrainSettings
from seqdsd.fabric import Fabric
from seqdsd.integrations import lightning as of_lightning
from seqdsd.integrations import transformers as of_transformers
from seqdsd.records import RunFolder
from seqdsd.sparsity import DSD, Rule, Schedule
from seqdsd.sparsity.held_weights import handles_on

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.isinstance.treespec, LeafSpec:FutureWarning"
    ),  # torch's, of Lightning
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The .*_dataloader. does not have many workers"),
]

RANK, PROCESSES = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
BATCH, BATCHES = 8, 3
SCHEDULE = Schedule.dsd(2, (2, 2, 1), (0.5, 0.25), (5e-2, 2e-2, 1e-2, 5e-3, 2e-3))
RULES = [Rule("*")]
NUMBERS = torch.randn(BATCHES * BATCH, 6, generator=torch.Generator().manual_seed(1))
OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.1),
}


class Network(nn.Module):
    """Adds six numbers up."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        if kind == "perceptron":
            self.layers = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.LeakyReLU(), nn.Linear(16, 1)
            )
        elif kind == "lstm":
            self.rnn, self.output = nn.LSTM(2, 8, batch_first=True, bidirectional=True), nn.Linear(16, 1)
        elif kind == "tied":
            self.layers = nn.Sequential(
                nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)
            )
            self.layers[2].weight = self.layers[0].weight

    def forward(self, numbers, labels):
        if self.kind == "lstm":
            sums = self.output(self.rnn(numbers.view(-1, 3, 2))[0].mean(1))
        else:
            sums = self.layers(numbers)
        return {"loss": nn.functional.mse_loss(sums.squeeze(1), labels), "sums": sums.detach()}


class Stopped(ValueError):
    """Where a test stops a training; the trainer has saved its state."""


class Failed(ValueError):
    """An error in the middle of a training."""


@dataclass(frozen=True)
class Case:
    """What a trainer trains.

    Attributes:
        accumulate: Parts of a batch, one backward pass each.
        clip: The gradients' largest norm.
        best: Which scores are better, where best weights are to be handed on.
        scores: By epoch.
        bad_batch: Of each epoch the one with an infinite number, whose step is skipped by a scaler.
        is_fused: Whether the optimizer is, as the engine's always are.
        fails_at: The step in whose forward pass there is an error.
        stop_after: So many epochs, counted over the whole schedule.
    """

    kind: str = "perceptron"
    optimizer: str = "momentum"
    schedule: Schedule = SCHEDULE
    accumulate: int = 1
    clip: float | None = None
    best: str | None = None
    scores: tuple[float, ...] = ()
    bad_batch: int | None = None
    is_fused: bool = True
    fails_at: int | None = None
    stop_after: int | None = None

    def model(self) -> Network:
        torch.manual_seed(0)
        return Network(self.kind)

    def make_optimizer(self, parameters, lr: float) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](parameters, lr=lr, fused=self.is_fused)

    @property
    def rows(self) -> list[dict[str, Tensor]]:
        """The items of an epoch, the same ones in each."""
        numbers = NUMBERS.clone()
        if self.bad_batch is not None:
            numbers[self.bad_batch * BATCH] = torch.inf
        return [{"numbers": one, "labels": one.sum()} for one in numbers]

    @property
    def part(self) -> int:
        """Items of a backward pass, over all processes."""
        return BATCH // self.accumulate

    def batch(self, index: int, rank: int = 0, processes: int = 1) -> list[dict[str, Tensor]]:
        """Of an epoch, in its parts; of several processes this one's share."""
        items = self.rows[index * BATCH : (index + 1) * BATCH]
        parts = [items[start : start + self.part][rank::processes] for start in range(0, BATCH, self.part)]
        return [{name: torch.stack([one[name] for one in part]) for name in part[0]} for part in parts]

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        return None if self.bad_batch is None else torch.amp.GradScaler("cpu", init_scale=2.0**4)


@dataclass(frozen=True)
class Step:
    """An optimizer's: the phase, the round's pruned weights after it, and their gradients as the optimizer saw them."""

    phase: str
    rate: float
    pruned: Tensor
    gradients: Tensor


@dataclass
class Trained:
    """What was seen of a training.

    Attributes:
        steps: All that an optimizer made.
        starts: By phase, the weights that its first batch found.
        ends: By epoch, the weights after its last step.
        masks: By sparse phase.
    """

    model: Network
    dsd: Callable[[], DSD]
    steps: list[Step] = field(default_factory=list)
    starts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ends: list[dict[str, Tensor]] = field(default_factory=list)
    masks: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Torch calls the hook of all optimizers after those of the one that has made a step."""
        of_model = self.model.register_forward_pre_hook(self._before_forward)
        of_optimizers = register_optimizer_step_post_hook(self._after_step)
        try:
            yield
        finally:
            of_model.remove()
            of_optimizers.remove()

    def _before_forward(self, model, inputs) -> None:
        if self.model.training and self.dsd().phase.name not in self.starts:
            self.starts[self.dsd().phase.name] = copy.deepcopy(self.model.state_dict())

    def _after_step(self, optimizer, *_) -> None:
        dsd = self.dsd()
        masks = dsd.masks.masks if dsd.masks else {}
        if dsd.phase.kind == "sparse":
            # Lightning's module has the network as its `network`.
            self.masks[dsd.phase.name] = {name.removeprefix("network."): one for name, one in masks.items()}
        chosen = [(dsd.model.get_parameter(name), ~mask) for name, mask in masks.items()]
        weights = [one.detach()[pruned] for one, pruned in chosen]
        gradients = [one.grad[pruned] for one, pruned in chosen]
        self.steps.append(
            Step(
                dsd.phase.name,
                float(optimizer.param_groups[0]["lr"]),
                torch.cat([torch.empty(0), *weights]),
                torch.cat([torch.empty(0), *gradients]),
            )
        )
        if len(self.steps) % BATCHES == 0:
            self.ends.append(copy.deepcopy(self.model.state_dict()))

    def of(self, phase: str) -> list[Step]:
        return [step for step in self.steps if step.phase == phase]


def failing_at(step: int | None, model: nn.Module) -> None:
    """Let the forward pass of a step fail."""
    passes = itertools.count()

    def fail(*_):
        if model.training and next(passes) == step:
            raise Failed

    if step is not None:
        model.register_forward_hook(fail)


def by_own_loop(case: Case, folder: Path) -> Trained:
    """Saves after each epoch, and goes on from what it finds in the folder."""
    model = case.model()
    dsd = DSD(model, case.schedule, RULES, best=case.best)
    failing_at(case.fails_at, model)
    trained = Trained(model, lambda: dsd)
    with trained.watched():
        if PROCESSES > 1:
            model = DistributedDataParallel(model)
        run_own_loop(case, model, dsd, folder, RANK, PROCESSES)
    return trained


def run_own_loop(
    case: Case, model: nn.Module, dsd: DSD, folder: Path, rank: int = 0, processes: int = 1
) -> None:
    path, saved = folder / f"state-{rank}.pt", {}
    if path.exists():
        saved = torch.load(path, weights_only=True)
        dsd.model.load_state_dict(saved["model"])
        dsd.load_state_dict(saved["dsd"])
    for phase in dsd.phases():
        optimizer = case.make_optimizer(model.parameters(), phase.learning_rate)
        if saved:
            optimizer.load_state_dict(saved["optimizer"])
            saved = {}
        with dsd.hold(optimizer):
            for epoch in phase.remaining_epochs:
                scaler = case.scaler or torch.amp.GradScaler("cpu", enabled=False)
                for index in range(BATCHES):
                    optimizer.zero_grad()
                    for part in case.batch(index, rank, processes):
                        scaler.scale(model(**part)["loss"] / case.accumulate).backward()
                    if case.clip:
                        dsd.mask_gradients_()
                        nn.utils.clip_grad_norm_(model.parameters(), case.clip)
                    scaler.step(optimizer)
                    scaler.update()
                dsd.epoch_done(score=case.scores[epoch] if case.best else None)
                parts = {"model": dsd.model, "optimizer": optimizer, "dsd": dsd}
                torch.save({name: part.state_dict() for name, part in parts.items()}, path)
                if epoch + 1 == case.stop_after:
                    raise Stopped


class InOrder(Trainer):
    """Hugging Face's, whose batches are not shuffled, and which saves tied weights of any network."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def _save(self, output_dir, state_dict=None):
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(output_dir) / "pytorch_model.bin")


class StopsAfterSaving(TrainerCallback):
    def __init__(self, epochs: int | None):
        self.epochs = epochs

    def on_save(self, args, state, control, **kwargs):
        if round(state.epoch) == self.epochs:
            raise Stopped


def by_transformers(case: Case, folder: Path) -> Trained:
    model, callback = case.model(), of_transformers.DSDCallback(case.schedule, RULES)
    trained = Trained(model, lambda: callback.dsd)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=case.schedule.total_epochs,
        per_device_train_batch_size=case.part // PROCESSES,
        gradient_accumulation_steps=case.accumulate,
        max_grad_norm=case.clip or 0.0,
        lr_scheduler_type="constant",
        eval_strategy="epoch" if case.best else "no",
        save_strategy="epoch" if case.best or case.stop_after else "no",
        load_best_model_at_end=case.best is not None,
        metric_for_best_model="score" if case.best else None,
        greater_is_better=case.best == "highest" if case.best else None,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = InOrder(
        model,
        arguments,
        train_dataset=case.rows,
        eval_dataset=case.rows[:BATCH],
        compute_metrics=lambda _: {"score": case.scores[round(trainer.state.epoch) - 1]},
        optimizers=(case.make_optimizer(model.parameters(), lr=1.0), None),
        callbacks=[callback, StopsAfterSaving(case.stop_after)],
    )
    trainer.accelerator.scaler = case.scaler  # its `fp16` wants a GPU; what it does with a scaler is the same
    failing_at(case.fails_at, model)
    with trained.watched():
        trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    return trained


class Module(pl.LightningModule):
    """The network in Lightning."""

    def __init__(self, case: Case):
        super().__init__()
        self.case, self.network = case, case.model()

    def training_step(self, batch, index):
        return self.network(**batch)["loss"]

    def validation_step(self, batch, index):
        if self.case.best:
            # Each process its own, whose mean the callback takes.
            apart = 4 * (RANK - (PROCESSES - 1) / 2) * (self.current_epoch % 2)
            self.log("score", self.case.scores[self.current_epoch] + apart)

    def configure_optimizers(self):
        return self.case.make_optimizer(self.parameters(), lr=1.0)


class StopsAfterEpochs(pl.Callback):
    def __init__(self, epochs: int | None):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epochs:
            raise Stopped


def by_lightning(case: Case, folder: Path) -> Trained:
    module = Module(case)
    mode = "max" if case.best == "highest" else "min"
    callback = of_lightning.DSDCallback(
        case.schedule, RULES, monitor="score" if case.best else None, mode=mode
    )
    trained = Trained(module.network, lambda: callback.dsd)
    saved = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        max_epochs=case.schedule.total_epochs,
        accumulate_grad_batches=case.accumulate,
        gradient_clip_val=case.clip,
        plugins=[] if case.scaler is None else [MixedPrecision("16-mixed", "cpu", case.scaler)],
        callbacks=[
            StopsAfterEpochs(case.stop_after),
            callback,
            *([saving] if case.stop_after or saved else []),
        ],
        accelerator="cpu",
        devices=PROCESSES,
        strategy="ddp" if PROCESSES > 1 else "auto",
        logger=False,
        enable_checkpointing=bool(case.stop_after or saved),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    failing_at(case.fails_at, module.network)
    # Its own of several processes would shuffle.
    sampler = DistributedSampler(case.rows, shuffle=False) if PROCESSES > 1 else None
    loader = DataLoader(case.rows, case.part // PROCESSES, sampler=sampler)
    with trained.watched():
        trainer.fit(module, loader, loader, ckpt_path=saved[-1] if saved else None)
    return trained


@dataclass(frozen=True, kw_only=True)
class Given(NesterovSettings):
    """The case's optimizer, for the engine."""

    case: Case

    def make(self, parameters, learning_rate):
        return replace(self.case, is_fused=True).make_optimizer(parameters, learning_rate)


@dataclass(frozen=True)
class Part:
    """What the engine takes for a batch."""

    inputs: dict[str, Tensor]

    @property
    def ids(self):
        return tuple(map(str, range(len(self))))

    def to(self, device):
        return self

    def __len__(self):
        return len(self.inputs["labels"])


class Task:
    """The case, for the engine; which hands on the best weights always."""

    test_splits, fingerprint, num_batches = (), "numbers", BATCHES

    def __init__(self, case: Case, processes: Processes):
        self.case, self.model, self.skipped, self.epoch = case, case.model(), {}, 0
        self.share = (processes.rank, processes.count)

    def batches(self, epoch, *, first):
        self.epoch = epoch
        if epoch == self.case.stop_after:
            raise Stopped
        for index in range(first, BATCHES):
            yield [Part(one) for one in self.case.batch(index, *self.share)]

    def largest_batch(self):
        return [Part(one) for one in self.case.batch(0, *self.share)]

    def loss(self, model, part):
        return model(**part.inputs)["loss"]

    def evaluate(self, model, split, device):
        score = self.case.scores[self.epoch] if self.case.best else -self.epoch
        return Evaluation(1.0, float(-score if self.case.best == "highest" else score), "", {}, [])


def by_engine(case: Case, folder: Path) -> Trained:
    fabric = Fabric(accelerator="cpu", devices=PROCESSES, strategy="ddp" if PROCESSES > 1 else "auto")
    fabric.launch()
    task = Task(case, Processes.of(fabric))
    training = DSDTraining(
        task,
        case.schedule,
        RULES,
        settings=TrainSettings(
            Given(case=case, clip_norm=case.clip or 1e9), patience=0, checkpoint_minutes=60.0
        ),
        folder=RunFolder(folder),
        fabric=fabric,
        console=Console(quiet=True),
    )
    # Before the first step it tries the largest batch.
    failing_at(None if case.fails_at is None else case.fails_at + 1, task.model)
    trained = Trained(task.model, lambda: training._dsd)
    with trained.watched():
        training.run()
    return trained


TRAINERS = {
    "own loop": by_own_loop,
    "transformers": by_transformers,
    "lightning": by_lightning,
    "engine": by_engine,
}


@pytest.fixture(params=TRAINERS.values(), ids=TRAINERS)
def train(request, tmp_path) -> Callable[..., Trained]:
    """Train a case by one of the trainers; once more, go on with what was trained before."""
    return lambda case: request.param(case, tmp_path)


@cache
def unbroken(case: Case) -> dict[str, Tensor]:
    """The weights with which a loop of one's own ends."""
    model = case.model()
    dsd = DSD(model, case.schedule, RULES, best=case.best)
    with TemporaryDirectory() as folder:
        run_own_loop(case, model, dsd, Path(folder))
    return model.state_dict()


def has_no_bits(numbers: Tensor) -> bool:
    """Whether all are +0.0."""
    return not numbers.view(torch.int32).any()


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("kind", "optimizer", "accumulate", "clip"),
    [
        ("perceptron", "momentum", 2, None),
        ("perceptron", "adam", 1, 0.1),
        ("lstm", "momentum", 1, None),
        ("tied", "adamw", 1, None),
    ],
)
def test_the_smallest_weights_are_zero_after_every_sparse_step_and_train_again_from_zero(
    train, kind, optimizer, accumulate, clip
):
    trained = train(Case(kind, optimizer, accumulate=accumulate, clip=clip))
    assert len(trained.steps) == SCHEDULE.total_epochs * BATCHES
    for number, share, before in ((1, 0.5, 1), (2, 0.25, 4)):
        sparse, redense = f"Sparse Iter {number}", f"Dense Iter {number}"
        assert {name for name, _ in trained.model.named_parameters() if _.dim() > 1} == {
            *trained.masks[sparse]
        }
        for name, mask in trained.masks[sparse].items():
            ranked = trained.ends[before][name].abs().flatten().argsort(stable=True)
            smallest = ranked[: round(len(ranked) * share)]
            assert set((~mask).flatten().nonzero().flatten().tolist()) == set(smallest.tolist()), name
            for phase in (sparse, redense):
                assert has_no_bits(trained.starts[phase][name][~mask])
        assert len(trained.of(sparse)) >= BATCHES and len(trained.of(redense)) >= BATCHES
        for step in trained.of(sparse):
            assert len(step.pruned) > 10 and has_no_bits(step.pruned) and has_no_bits(step.gradients)
        assert (trained.of(redense)[-1].pruned != 0).float().mean() > 0.9
    assert trained.dsd().phase is None


def test_every_phase_has_its_epochs_and_its_rate(train):
    walked = [(phase.name, phase.learning_rate) for phase in SCHEDULE for _ in range(phase.epochs * BATCHES)]
    assert [(step.phase, step.rate) for step in train(Case()).steps] == walked


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_all_end_with_the_same_weights(train, optimizer):
    case = Case("perceptron", optimizer, accumulate=2, clip=0.5, best="lowest", scores=(1, 2, 2, 1, 1, 1, 1))
    assert_same_bits(train(case).model.state_dict(), unbroken(case))


# Within the first, a sparse and, of one whose best weights are not its last, the same phase; and between two.
@pytest.mark.parametrize(("kind", "stop"), [("lstm", 1), ("tied", 3), ("perceptron", 3), ("perceptron", 4)])
def test_stopped_after_an_epoch_it_ends_with_the_same_bits(train, kind, stop):
    case = Case(kind, "adam", best="lowest", scores=(3, 1, 2, 4, 5, 1, 0))
    with pytest.raises(Stopped):
        train(replace(case, stop_after=stop))
    assert_same_bits(train(case).model.state_dict(), unbroken(case))


@pytest.mark.parametrize(("best", "handed_on"), [("lowest", (0, 2)), ("highest", (1, 3)), (None, (1, 3))])
def test_the_best_weights_are_handed_on(train, best, handed_on):
    """Those of the epochs ``handed_on`` of the first two phases, with their batch norm's statistics."""
    trained = train(Case(best=best, scores=(3, 5, 1, 2, 9, 9, 9)))
    for phase, epoch in zip(("Sparse Iter 1", "Dense Iter 1"), handed_on, strict=True):
        expected = dict(trained.ends[epoch])
        for name, mask in trained.masks["Sparse Iter 1"].items():
            expected[name] = expected[name] * mask
        assert_same_bits(trained.starts[phase], expected)


def test_a_skipped_step_leaves_pruned_weights_at_zero(train):
    trained = train(Case("tied", bad_batch=1, is_fused=False))
    # The engine's optimizers are called, and skip it themselves.
    done = [step for step in trained.steps if step.gradients.isfinite().all()]
    assert len(trained.of("Sparse Iter 2")) in (BATCHES - 1, BATCHES)
    assert len([step for step in done if step.phase == "Dense Iter 1"]) == BATCHES - 1
    assert {(step.phase, step.rate) for step in done} == {
        (phase.name, phase.learning_rate) for phase in SCHEDULE
    }
    assert all(has_no_bits(step.pruned) for step in trained.steps if "Sparse" in step.phase)
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())


def test_an_error_leaves_no_hook_behind(train):
    seen = []
    watching = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.append((optimizer, handles_on(optimizer.param_groups[0]["params"][0])))
    )
    with pytest.raises(Failed):
        train(Case(fails_at=2 * BATCHES + 1))
    watching.remove()
    optimizer, handles = seen[-1]
    assert len(seen) == 2 * BATCHES + 1 and handles  # it was held until then
    assert not any(handles_on(one) for one in optimizer.param_groups[0]["params"])
    assert not optimizer._optimizer_step_post_hooks


def test_the_control_prunes_nothing(train):
    control = SCHEDULE.lower_learning_rate_only()
    trained = train(Case(schedule=control))
    assert [step.rate for step in trained.steps[::BATCHES]] == [5e-2] * 2 + [2e-2] * 2 + [1e-2, 5e-3, 2e-3]
    assert not any((end["layers.0.weight"] == 0).any() for end in trained.ends)


def test_the_model_s_own_state_is_as_if_there_were_no_dsd(train):
    assert train(Case()).model.state_dict().keys() == Case().model().state_dict().keys()


CLIPPED = Case("tied", accumulate=2, clip=0.1, best="lowest", scores=(1, 2, 2, 1, 1, 1, 1))


def test_two_processes_end_with_the_weights_of_one_and_clip_without_the_pruned(tmp_path):
    run_together(2, as_one_of_two, tmp_path, seconds=600)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first.keys() == TRAINERS.keys()
    for name, (weights, *were_zero) in first.items():
        assert_same_bits(weights, second[name][0])
        for key, alone in unbroken(CLIPPED).items():
            torch.testing.assert_close(weights[key], alone, rtol=1e-3, atol=1e-4, msg=name)
        assert were_zero == [True, True] == [*second[name][1:]], name


def as_one_of_two(folder: Path) -> None:
    distributed.init_process_group("gloo")
    left = {}
    for name, trainer in TRAINERS.items():
        (folder / name).mkdir(exist_ok=True)
        trained = trainer(CLIPPED, folder / name)
        sparse = [step for step in trained.steps if "Sparse" in step.phase]
        left[name] = (
            dict(trained.model.state_dict()),
            all(has_no_bits(step.pruned) and len(step.pruned) for step in sparse),
            all(has_no_bits(step.gradients) for step in sparse),
        )
    torch.save(left, folder / f"{RANK}.pt")
    distributed.destroy_process_group()
