"""What DSD does in the real Trainer of Lightning alone; the rest is in ``test_every_trainer.py``."""

import csv
import logging
import os
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import distributed, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from seqdsd.integrations.lightning import DSDCallback
from seqdsd.sparsity import Rule, Schedule
from seqdsd.sparsity.held_weights import handles_on

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.isinstance.treespec, LeafSpec:FutureWarning"
    ),  # torch's, of Lightning
    pytest.mark.filterwarnings("ignore:The .*_dataloader. does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

BATCHES = 3
SCHEDULE = Schedule.dsd(iters=1, epochs=(2, 2, 1), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
RULES = [Rule("layers.2.*", 0, why="the output"), Rule("*")]
NUMBERS = torch.randn(BATCHES * 8, 6, generator=torch.Generator().manual_seed(1))
FOR_ALL = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


class Module(pl.LightningModule):
    """Adds six numbers up; ``schedule`` makes the schedulers of its optimizer, whose own rate is 0.1."""

    def __init__(self, schedule=None, rates=(0.1,)):
        super().__init__()
        self.layers, self.schedule, self.rates = layers(), schedule, rates
        self.validated = 0

    def training_step(self, batch, index):
        loss = nn.functional.mse_loss(self.layers(batch[0]).squeeze(1), batch[0].sum(1))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.validated += 1
        self.log("score", float(self.validated))

    def configure_optimizers(self):
        groups = [
            {"params": list(layer.parameters()), "lr": rate}
            for layer, rate in zip((self.layers[0], self.layers[2]), self.rates * 2, strict=False)
        ]
        optimizer = torch.optim.SGD(groups, lr=0.7)
        return ([optimizer], [self.schedule(optimizer, self.trainer)]) if self.schedule else optimizer


class Watch(pl.Callback):
    """Notes before each step the rates of all groups, and after it how many weights of the first layer are 0."""

    def __init__(self):
        self.rates, self.zeros = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(tuple(group["lr"] for group in optimizer.param_groups))

    def on_train_batch_end(self, trainer, module, *_):
        self.zeros.append(int((module.layers[0].weight == 0).sum()))


def data(batch_size=8) -> DataLoader:
    return DataLoader(TensorDataset(NUMBERS), batch_size)


def fit(module=None, callback=None, *others, ckpt_path=None, val=None, loader=None, **settings):
    """Train, for as long as the schedule is unless it is said; the trainer, the callback and what was watched."""
    callback, watch = callback or DSDCallback(SCHEDULE, RULES), Watch()
    if "max_steps" not in settings and "fast_dev_run" not in settings:
        settings.setdefault("max_epochs", callback.schedule.total_epochs)
    trainer = pl.Trainer(callbacks=[callback, watch, *others], **{**FOR_ALL, **settings})
    module = Module() if module is None else module
    trainer.fit(module, loader or data(), val or data(), ckpt_path=ckpt_path)
    return trainer, callback, watch


PRUNED = 6 * 16 // 2
IN_SPARSE = [0] * 6 + [PRUNED] * 6 + [0] * 3  # of the schedule's steps


def cosine(optimizer, trainer):
    steps = trainer.estimated_stepping_batches
    return {"scheduler": lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.01), "interval": "step"}


def cosine_of_epochs(optimizer, trainer):
    return lr_scheduler.CosineAnnealingLR(optimizer, trainer.max_epochs)


def one_cycle(optimizer, trainer):
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = trainer.estimated_stepping_batches
    return {"scheduler": lr_scheduler.OneCycleLR(optimizer, peaks, steps), "interval": "step"}


def cyclic(optimizer, trainer):
    peaks = [group["lr"] for group in optimizer.param_groups]
    scheduler = lr_scheduler.CyclicLR(
        optimizer, [peak / 4 for peak in peaks], peaks, step_size_up=2, cycle_momentum=False
    )
    return {"scheduler": scheduler, "interval": "step"}


def warmup_and_step(optimizer, trainer):
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.25, total_iters=2),
        lr_scheduler.ExponentialLR(optimizer, 0.5),
    ]
    return {"scheduler": lr_scheduler.SequentialLR(optimizer, parts, [2]), "interval": "step"}


def of_a_function(optimizer, trainer):
    steps = trainer.estimated_stepping_batches  # which no state of the scheduler holds
    return {"scheduler": lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps), "interval": "step"}


def plateau(optimizer, trainer):
    # The score rises: each epoch is worse than the one before.
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=0.06)
    return {"scheduler": scheduler, "monitor": "score"}


SHAPES = [cosine, cosine_of_epochs, one_cycle, cyclic, warmup_and_step, of_a_function, plateau]


@pytest.mark.parametrize("schedule", SHAPES)
def test_rates_are_those_of_trainings_as_long_as_the_phases(schedule):
    """Of the user's own scheduler, in a Trainer without DSD, times what the phase's rate is of the optimizer's."""
    phases = Schedule.dsd(1, (3, 3, 1), [0.5], [1e-2, 5e-3, 1e-3])
    _, _, watch = fit(Module(schedule, rates=(0.1, 0.3)), DSDCallback(phases, RULES))
    expected = []
    for phase in phases:
        alone = Watch()
        trainer = pl.Trainer(callbacks=[alone], max_epochs=phase.epochs, **FOR_ALL)
        module = Module(schedule, rates=(0.1, 0.3))
        trainer.fit(module, data(), data())
        expected += [tuple(phase.learning_rate / 0.1 * rate for rate in rates) for rates in alone.rates]
    assert len(watch.rates) == 21 and len({rates[0] for rates in watch.rates}) > 3
    assert watch.rates == [pytest.approx(rates, rel=1e-6) for rates in expected]


class Decayed(lr_scheduler.LRScheduler):
    """A scheduler whose least rate nobody can know of."""

    def get_lr(self):
        return [max(0.05, rate * 0.9**self.last_epoch) for rate in self.base_lrs]


def test_a_scheduler_of_ones_own_is_refused():
    with pytest.raises(ValueError, match="Decayed is none of torch.optim.lr_scheduler"):
        fit(Module(lambda optimizer, trainer: Decayed(optimizer)))


def test_a_module_may_give_the_same_optimizer_in_each_phase():
    class Keeps(Module):
        def configure_optimizers(self):
            if not hasattr(self, "kept"):
                self.kept = torch.optim.Adam(self.parameters(), lr=0.1)
            return self.kept

    class Steps(pl.Callback):
        seen = []

        def on_train_batch_end(self, trainer, module, *_):
            self.seen.append(int(module.kept.state[module.layers[0].weight]["step"]))

    _, _, watch = fit(Keeps(), None, Steps())
    assert Steps.seen == [1, 2, 3, 4, 5, 6] * 2 + [1, 2, 3]
    assert watch.rates == [(1e-2,)] * 6 + [(5e-3,)] * 6 + [(1e-3,)] * 3


def test_phases_take_their_share_of_max_steps_and_schedulers_theirs():
    _, callback, watch = fit(Module(cosine), max_steps=5)
    assert watch.zeros == [0, 0, PRUNED, PRUNED, 0]
    assert watch.rates[0] == (1e-2, 1e-2) and watch.rates[2] == (5e-3, 5e-3)
    assert watch.rates[1][0] == pytest.approx((1e-2 + 1e-3) / 2)  # half of a cosine of two steps
    assert callback.dsd.phase is None


@pytest.mark.filterwarnings("ignore:.*fast_dev_run")
def test_a_quick_trial_walks_all_phases():
    _, callback, watch = fit(loader=data(4), fast_dev_run=5)
    assert watch.zeros == [0, 0, PRUNED, PRUNED, 0] and callback.dsd.phase is None


def test_bf16_autocast():
    _, _, watch = fit(precision="bf16-mixed")
    assert watch.zeros == IN_SPARSE


def test_a_compiled_module_has_its_own_names():
    class Quiet(Module):
        def training_step(self, batch, index):  # torch 2.14 warns of what `log` does
            return nn.functional.mse_loss(self.layers(batch[0]).squeeze(1), batch[0].sum(1))

    _, callback, watch = fit(torch.compile(Quiet(), backend="eager"))
    assert watch.zeros == IN_SPARSE
    assert {*callback.dsd.plans[SCHEDULE.phases[1]].sparsities} == {"layers.0.weight"}


def test_a_module_may_make_its_layers_late():
    class Late(Module):
        def __init__(self):
            super().__init__()
            del self.layers

        def configure_model(self):
            self.layers = layers()

    assert fit(Late())[2].zeros == IN_SPARSE


def test_the_older_name_of_the_package_does_as_well():
    class Older(pytorch_lightning.LightningModule):
        __init__, training_step, configure_optimizers = (
            lambda self: (
                pytorch_lightning.LightningModule.__init__(self) or setattr(self, "layers", layers())
            ),
            lambda self, batch, index: self.layers(batch[0]).square().mean(),
            lambda self: torch.optim.SGD(self.parameters(), lr=1.0),
        )

    watch = Watch()
    trainer = pytorch_lightning.Trainer(
        callbacks=[DSDCallback(SCHEDULE, RULES), watch], max_epochs=5, **FOR_ALL
    )
    trainer.fit(Older(), data())
    assert watch.zeros == IN_SPARSE and watch.rates[-1] == (1e-3,)


def test_logs_say_phase_and_zeros_and_the_true_rate(tmp_path):
    fit(None, None, LearningRateMonitor(), logger=CSVLogger(tmp_path, "", ""))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file)]
    told = {(int(row["step"]), row["dsd/phase"], row["dsd/zeros"]) for row in rows if row["dsd/zeros"]}
    assert told == {
        *((step, "0.0", "0.0") for step in range(6)),
        *((step, "1.0", "0.5") for step in range(6, 12)),
        *((step, "2.0", "0.0") for step in range(12, 15)),
    }
    rates = [float(row["lr-SGD/pg1"]) for row in rows if row["lr-SGD/pg1"]]
    assert rates == [1e-2] * 8 + [5e-3] * 8 + [1e-3] * 4  # of each epoch as it begins, and of its steps


class See(pl.Callback):
    """Notes the first layer before and after each step."""

    def __init__(self):
        self.before, self.after = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before.append(module.layers[0].weight.detach().clone())

    def on_train_batch_end(self, trainer, module, *_):
        self.after.append(module.layers[0].weight.detach().clone())


def test_scores_within_an_epoch_choose_the_best_too():
    """Validated after each batch, with scores that rise: the phase's first is its best."""
    module, see = Module(), See()
    fit(module, DSDCallback(SCHEDULE, RULES, monitor="score"), see, val_check_interval=1)
    assert torch.equal(see.before[12], see.after[6])
    assert torch.equal(module.layers[0].weight, see.after[12])


def test_a_score_of_the_phase_before_counts_for_nothing():
    """Validated after each second epoch: in the sparse phase, of three, that is its second."""
    schedule = Schedule.dsd(iters=1, epochs=(2, 3, 1), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
    see = See()
    fit(None, DSDCallback(schedule, RULES, monitor="score"), see, check_val_every_n_epoch=2)
    assert torch.equal(see.before[15], see.after[11])


def test_a_metric_of_training_may_be_monitored():
    class Logs(Module):
        def training_step(self, batch, index):
            self.log("rises", float(self.current_epoch), on_step=False, on_epoch=True)
            return super().training_step(batch, index)

    see = See()
    fit(Logs(), DSDCallback(SCHEDULE, RULES, monitor="rises"), see, limit_val_batches=0)
    assert torch.equal(see.before[12], see.after[8])


def test_a_metric_that_is_not_logged_is_refused_after_an_epoch():
    module = Module()
    with pytest.raises(ValueError, match="monitor='val_los' was not logged, but .*score, train_loss; log it"):
        fit(module, DSDCallback(SCHEDULE, RULES, monitor="val_los"))
    assert module.trainer.current_epoch <= 1


# Of one that is saved in the middle of an epoch, after a validation, and after an epoch.
SAVED = {
    "steps": {"every_n_train_steps": 1},
    "validation": {"save_on_train_epoch_end": False},
    "epoch": {"save_on_train_epoch_end": True},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trainings that nothing broke, with a checkpoint at every such moment: by moment, the module and the folder."""
    made = {}
    for name, moments in SAVED.items():
        folder = tmp_path_factory.mktemp(name)
        module = Module(of_a_function)
        # Each batch has the same items: where Lightning begins again within an epoch matters to no sampler.
        fit(module, best(), *saving(folder, moments), loader=alike(), enable_checkpointing=True)
        made[name] = module, folder
    return made


def best() -> DSDCallback:
    return DSDCallback(SCHEDULE, RULES, monitor="score")


def saving(folder, moments) -> list:
    return [ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, **moments)]


def alike() -> DataLoader:
    return DataLoader(TensorDataset(NUMBERS[:8].repeat(BATCHES, 1)), 8)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    ("moment", "step"),
    [("steps", 2), ("steps", 6), ("steps", 8), ("steps", 12), ("steps", 15)]
    + [(moment, step) for moment in ("validation", "epoch") for step in (3, 6, 9, 12, 15)],
)
def test_a_training_goes_on_to_the_same_bits(whole, moment, step):
    finished, folder = whole[moment]
    [path] = folder.glob(f"*-step={step}.ckpt")
    module = Module(of_a_function)
    module.validated = 1000  # scores rise, as they did
    fit(
        module,
        best(),
        *saving(folder, SAVED[moment]),
        ckpt_path=path,
        loader=alike(),
        enable_checkpointing=True,
    )
    for one, other in zip(module.parameters(), finished.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("start", ["former", "fresh"])
def test_restored_weights_begin_as_asked_and_a_training_goes_on_to_the_same_bits(tmp_path, start):
    def train(folder, **settings):
        callback = DSDCallback(SCHEDULE, RULES, restored_start=start, make_fresh=lambda: Module(), seed=3)
        module, see = Module(of_a_function), See()
        moments = saving(folder, SAVED["steps"])
        fit(module, callback, see, *moments, loader=alike(), enable_checkpointing=True, **settings)
        return module, see

    whole, see = train(tmp_path / "whole")
    pruned = see.after[6] == 0  # of 15 steps 6 are dense, 6 sparse, 3 redense
    expected = see.after[5] if start == "former" else layers()[0].weight
    assert int(pruned.sum()) == PRUNED and torch.equal(see.before[12][pruned], expected[pruned])
    for step in (8, 12, 14):  # in the sparse phase, between both, in the redense phase
        [path] = (tmp_path / "whole").glob(f"*-step={step}.ckpt")
        again, _ = train(tmp_path / f"from {step}", ckpt_path=path)
        for one, other in zip(again.parameters(), whole.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
def test_a_checkpoint_of_the_end_gives_the_best_weights(tmp_path):
    """It holds the last weights, and the best in the callback's state; nothing is left to train."""
    schedule = Schedule.dsd(iters=1, epochs=(1, 1, 2), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
    finished, again = Module(), Module()
    best = DSDCallback(schedule, RULES, monitor="score")
    fit(finished, best, *saving(tmp_path, SAVED["epoch"]), enable_checkpointing=True)
    [path] = tmp_path.glob("*-step=12.ckpt")
    _, callback, watch = fit(again, DSDCallback(schedule, RULES, monitor="score"), ckpt_path=path)
    assert watch.zeros == [] and callback.dsd.phase is None
    assert all(map(torch.equal, again.parameters(), finished.parameters()))


def test_a_checkpoint_is_read_without_unpickling_and_its_masks_take_a_bit_a_weight(whole):
    [path] = whole["epoch"][1].glob("*-step=9.ckpt")
    saved = torch.load(path, weights_only=True)
    state = saved["callbacks"]["DSDCallback"]
    assert len(state["masks"]["layers.0.weight"]) == 6 * 16 / 8
    assert saved["state_dict"].keys() == Module().state_dict().keys()
    assert (saved["state_dict"]["layers.0.weight"] == 0).sum() == 48


def test_masks_come_from_the_checkpoint_and_not_from_its_weights(whole, tmp_path):
    [path] = whole["epoch"][1].glob("*-step=9.ckpt")
    saved = torch.load(path, weights_only=True)
    pruned = saved["state_dict"]["layers.0.weight"] == 0
    saved["state_dict"]["layers.0.weight"] = torch.randn(16, 6)
    torch.save(saved, tmp_path / "other.ckpt")

    class See(pl.Callback):
        seen = []

        def on_train_batch_end(self, trainer, module, *_):
            self.seen.append(module.layers[0].weight == 0)

    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        fit(Module(of_a_function), best(), See(), ckpt_path=tmp_path / "other.ckpt")
    assert torch.equal(See.seen[0], pruned)


LONGER = Schedule.dsd(iters=1, epochs=(2, 1, 2), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"schedule": LONGER}, {}, "step=9.ckpt: saved with another schedule: phase 2"),
        ({"rules": [Rule("layers.2.*")]}, {}, "step=9.ckpt: saved with other rules"),
        ({"monitor": None}, {}, "step=9.ckpt: saved with best='lowest', this DSD has best=None"),
        ({}, {"max_steps": 40}, "step=9.ckpt: saved in a training of 5 epochs, this one has 40 steps"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(whole, changes, settings, said):
    [path] = whole["epoch"][1].glob("*-step=9.ckpt")
    made = {"schedule": SCHEDULE, "rules": RULES, "monitor": "score", **changes}
    module = Module(of_a_function)
    with pytest.raises(ValueError, match=said):
        fit(module, DSDCallback(**made), ckpt_path=path, **settings)
    assert not any(handles_on(one) for one in module.parameters())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_checkpoint_from_before_is_refused(tmp_path):
    trainer = pl.Trainer(max_epochs=1, **FOR_ALL)
    trainer.fit(Module(), data(), data())
    trainer.save_checkpoint(tmp_path / "before.ckpt")
    with pytest.raises(ValueError, match="goes on after 1 epochs, but without a state of DSDCallback"):
        fit(ckpt_path=tmp_path / "before.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
def test_a_refused_checkpoint_leaves_nothing_behind(whole):
    callback = DSDCallback(LONGER, RULES, monitor="score")
    with pytest.raises(ValueError, match="another schedule"):
        fit(None, callback, ckpt_path=next(whole["epoch"][1].glob("*-step=9.ckpt")))
    _, _, watch = fit(None, callback)
    assert watch.zeros == [0] * 6 + [PRUNED] * 3 + [0] * 6


def test_fit_once_more_begins_anew():
    callback = DSDCallback(SCHEDULE, RULES)
    fit(None, callback)
    _, _, watch = fit(None, callback)
    assert watch.zeros == IN_SPARSE


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Still(Module):
    def configure_optimizers(self):
        return None


class Frozen(Module):
    def configure_optimizers(self):
        return torch.optim.SGD(self.layers[2].parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.parametrize(
    ("module", "callback", "settings", "said"),
    [
        (Still, {}, {}, "Still.configure_optimizers gives no optimizer"),
        (Manual, {}, {}, "Manual optimizes manually; let Lightning do it"),
        (Module, {}, {"max_epochs": 4}, r"give Trainer\(max_epochs=5\), or max_steps alone"),
        (Module, {}, {"max_epochs": 5, "max_steps": 4}, "or max_steps alone"),
        (Module, {}, {"max_steps": 2}, "2 steps are too few for the 3 phases"),
        (Module, {"rules": [Rule("nothing.*")]}, {}, "matches no parameter"),
        (Frozen, {}, {}, "does not hold these masked parameters: layers.0.weight"),
        (lambda: Module(rates=(0.0, 0.1)), {}, {}, "rate of the optimizer's first group is 0"),
    ],
)
def test_what_cannot_be_is_refused_before_training(module, callback, settings, said):
    made = module()
    with pytest.raises(ValueError, match=said):
        fit(made, DSDCallback(**{"schedule": SCHEDULE, "rules": RULES, **callback}), **settings)
    assert made.trainer.global_step == 0
    assert not any(handles_on(one) for one in made.parameters())


class Sharding(FSDPStrategy):
    """Lightning refuses its own class on a CPU, and this one does not shard there either; it is refused before."""


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, Sharding])
def test_a_strategy_that_may_shard_is_refused(monkeypatch, strategy):
    class Sharded(Module):
        def configure_model(self):
            raise AssertionError("never asked")

    monkeypatch.setattr(os, "environ", os.environ.copy())  # Lightning leaves there what it tells torch
    try:
        with pytest.raises(ValueError, match=f"not with {strategy.__name__}.*choose strategy='ddp'"):
            fit(Sharded(), strategy=strategy(process_group_backend="gloo"), devices=1)
    finally:
        distributed.destroy_process_group()


def test_deepspeed_is_refused_though_it_is_a_kind_of_ddp():
    class Here(DeepSpeedStrategy):
        """Lightning's, which needs no deepspeed until it is made, or trains: on GPUs only."""

        def __init__(self):
            DDPStrategy.__init__(self)

    callback = DSDCallback(SCHEDULE, RULES)
    trainer = pl.Trainer(max_epochs=5, strategy=Here(), devices=1, callbacks=[callback], **FOR_ALL)
    with pytest.raises(ValueError, match="not with Here.*choose strategy='ddp'"):
        callback.setup(trainer, Module(), "fit")


def test_a_callback_that_makes_the_training_longer_is_refused():
    class Normed(Module):
        def __init__(self):
            super().__init__()
            self.layers.append(nn.BatchNorm1d(1))  # for which weight averaging takes an epoch more

    with pytest.raises(ValueError, match="another callback has changed max_epochs from 5 to 6"):
        fit(Normed(), None, StochasticWeightAveraging(1e-2))


def test_an_early_end_is_told_and_holds_nothing(caplog):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 2

    module = Module()
    with caplog.at_level(logging.WARNING, logger="seqdsd"):
        _, callback, watch = fit(module, None, Stop())
    assert "ended before its schedule: in Sparse Iter 1, after 3 of 5 epochs" in caplog.text
    assert watch.zeros == IN_SPARSE[:9]
    assert not any(handles_on(one) for one in module.parameters())


def test_a_control_without_pruning_has_the_same_rates():
    _, _, watch = fit(None, DSDCallback(SCHEDULE.lower_learning_rate_only(), RULES))
    assert watch.zeros == [0] * 15
    assert watch.rates == [(1e-2,) * 2] * 6 + [(5e-3,) * 2] * 6 + [(1e-3,) * 2] * 3


def test_without_lightning_it_says_what_to_install():
    missing = "sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None"
    code = f"import sys; {missing}; import seqdsd.integrations.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'seqdsd[lightning]'" in done.stderr


def test_the_older_name_alone_is_enough():
    code = "import sys; sys.modules['lightning'] = None; import seqdsd.integrations.lightning as made; "
    code += "print(made.Callback.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("pytorch_lightning."), done.stderr
