"""DSD in Lightning's ``Trainer``: one ``fit`` walks all phases of a schedule.

What happens at which of Lightning's hooks; phases, masks and holding are ``seqdsd.sparsity.DSD``'s. Needs
``pip install 'seqdsd[lightning]'``; the older name of the same package, ``pytorch_lightning``, does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seqdsd.integrations.walk import Walk
from seqdsd.sparsity import DSD, Phase, RestoredStart, Rule, Schedule
from seqdsd.sparsity.controller import Best

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment]
    except ImportError as error:
        raise ImportError(
            "seqdsd.integrations.lightning needs Lightning's Trainer: pip install 'seqdsd[lightning]'"
        ) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Mode = Literal["min", "max"]
"""Which of two values of a monitored metric is the better one."""


class DSDCallback(Callback):
    """Dense-Sparse-Dense training in one ``Trainer.fit``.

        trainer = Trainer(max_epochs=schedule.total_epochs, callbacks=[DSDCallback(schedule, rules)])
        trainer.fit(module, data)

    - **Phases**: where ``max_epochs`` is the schedule's ``total_epochs``, its own epochs; with ``max_steps`` each takes
      its share of them. A phase ends as the next one's first batch begins, so after its last validation.
    - **Optimizers and rates**: for each phase ``configure_optimizers`` is called anew, and the Trainer is then as long
      as the phase (``max_epochs``, ``max_steps``, ``estimated_stepping_batches``). The phase's rate takes the place of
      the one that it gives the optimizer's first group (of ``OneCycleLR`` and ``CyclicLR``: their ``max_lr``); all
      other rates of groups and schedulers keep their ratios to it.
    - **Checkpoints** hold the masks, at one bit a weight, the position and the best weights; ``fit(ckpt_path=…)`` goes
      on anywhere.
    - **Best weights**: with ``monitor``, each phase hands on its best, otherwise its last.
    - **Logs**: ``dsd/zeros``, the share of exact zeros among all weights that some phase prunes, and ``dsd/phase``,
      counted from 0: every ``log_every_n_steps`` and after each epoch. In a redense phase ``dsd/restored``, the mean
      |w| of the restored weights in shares of what it was before; a phase that ends with too little of it is warned of.

    Whatever ends ``fit``, nothing holds the weights after it.

    Attributes:
        schedule: All phases.
        rules: What is pruned.
        monitor: By which metric the best weights of a phase are told.
        dsd: The phases and masks of the training that runs, or of the last one; None before.
    """

    # Set as a training begins.
    _length: tuple[str, int]
    _walk: Walk

    def __init__(
        self,
        schedule: Schedule,
        rules: Iterable[Rule],
        *,
        monitor: str | None = None,
        mode: Mode = "min",
        restored_start: RestoredStart = "zero",
        make_fresh: Callable[[], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        """Nothing happens yet.

        Args:
            schedule: As long as the training. ``schedule.lower_learning_rate_only()`` is the control without pruning.
            rules: What is pruned (``SPEECH_RULES``, ``CAPTION_RULES``, ``VISION_RULES``, or your own).
            monitor: A metric that the module logs (``self.log``) in validation or training steps.
            mode: Whether the lowest or the highest of it is the best.
            restored_start: What pruned weights begin the redense phase with (see ``DSD``); ``former`` is in
                checkpoints until then.
            make_fresh: For ``fresh``: builds the module with the weights of its initialisation.
            seed: Decides the draws of ``fresh``.

        Raises:
            ValueError: If ``mode`` is neither.
        """
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        self.schedule, self.rules = schedule, tuple(rules)
        self.monitor, self.mode = monitor, mode
        self._restored_start: RestoredStart = restored_start
        self._make_fresh, self._seed = make_fresh, seed
        self.dsd: DSD | None = None
        self._saved: dict[str, Any] | None = None
        self._old_score: Tensor | None = None
        self._has_validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: If the schedule is longer or shorter than the training, or this trains in a way that masks or
                rates cannot follow.
        """
        if stage == "fit":
            _refuse(trainer, pl_module)
            self._length = _length(trainer, self.schedule)
            self.schedule.starts(of=self._length[1])  # refused where too few
            self.dsd, self._saved, self._has_validated = None, None, False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until the model is there."""
        self._saved = state_dict

    def state_dict(self) -> dict[str, Any]:
        """Masks, position and best weights, for a checkpoint."""
        return {} if self.dsd is None else self.dsd.state_dict() | {"length": list(self._length)}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stand where the training begins, or goes on.

        Raises:
            ValueError: If a rule matches nothing, the optimizer lacks weights that are to be pruned, its rates cannot
                follow the schedule, or the checkpoint is of another schedule, model or length.
        """
        best: Best = "highest" if self.mode == "max" else "lowest"
        self.dsd = DSD(
            pl_module,
            self.schedule,
            self.rules,
            best=best if self.monitor else None,
            restored_start=self._restored_start,
            make_fresh=self._make_fresh,
            seed=self._seed,
        )
        self._walk = Walk(self.dsd, *self._length)
        if self._saved is not None:
            self._load(trainer, self._saved)
        # Of an old phase, whose state the Trainer then loads, or a new one.
        self._make_optimizer(trainer)
        self.dsd.check(trainer.optimizers[0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the Trainer stands where the schedule does.

        Raises:
            ValueError: If it goes on with a training that had no DSDCallback, or another callback has made it longer.
        """
        if self._saved is None and self._done(trainer):
            raise ValueError(
                f"the training goes on after {self._done(trainer)} {self._length[0]}, but without a state of "
                "DSDCallback: its checkpoint was saved without one; go on from another, or make a new Trainer"
            )
        name = f"max_{self._walk.unit}"
        if (now := getattr(trainer, name)) != self._walk.total:
            raise ValueError(
                f"another callback has changed {name} from {self._walk.total} to {now}, to which the schedule does not "
                "fit; leave it out"
            )
        self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a phase, or go on with it after a break."""
        self._stand(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a phase within an epoch, or go on there after a break."""
        self._stand(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report zeros where the Trainer writes its logs."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set from outside its class
        if every and trainer.global_step % every == 0:
            pl_module.log_dict(self._walk.report(), on_step=True, on_epoch=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the phase's best."""
        if self.dsd is not None and not trainer.sanity_checking:
            self._has_validated = True
            self._note_score(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report zeros, and keep the weights if they are the phase's best.

        Raises:
            ValueError: If the monitored metric is not logged.
        """
        pl_module.log_dict(self._walk.report(), on_step=False, on_epoch=True, sync_dist=True)
        self._note_score(trainer)
        was_due = self._has_validated or not trainer.enable_validation
        if self.monitor and was_due and self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"monitor={self.monitor!r} was not logged, but {', '.join(sorted(trainer.callback_metrics))}; log it "
                "by self.log in validation_step or training_step"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free all weights, which are the last phase's best if these were asked for."""
        self._walk.end_phase_if_over(self._done(trainer), trainer.optimizers[0])
        self._dsd.release()
        self._walk.warn_if_unfinished(self._done(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where a checkpoint from the training's end left nothing to train."""
        if self._saved is not None:
            self.on_train_end(trainer, pl_module)
            self._saved = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Free all weights."""
        if self.dsd is not None:
            self.dsd.release()

    @property
    def _dsd(self) -> DSD:
        assert self.dsd is not None
        return self.dsd

    def _done(self, trainer: Trainer) -> int:
        """How many epochs or steps are done."""
        return trainer.global_step if self._length[0] == "steps" else trainer.current_epoch

    def _stand(self, trainer: Trainer) -> None:
        """End the phase if its time is over; be in the one whose time it is."""
        if self._walk.end_phase_if_over(self._done(trainer), trainer.optimizers[0]):
            self._make_optimizer(trainer)
            self._old_score = trainer.callback_metrics.get(self.monitor or "")
        if not self._dsd.is_held:
            self._dsd.enter(trainer.optimizers[0])

    def _make_optimizer(self, trainer: Trainer) -> None:
        """A fresh optimizer for the phase, with its rate and, if the module has them, schedulers as long as it."""
        phase = self._dsd.phase or self.schedule.phases[-1]  # of a training that is done, too
        with self._as_long_as(phase, trainer):
            trainer.strategy.setup_optimizers(trainer)
        optimizer = trainer.optimizers[0]
        if not optimizer.param_groups:  # Lightning's stand-in for none
            raise ValueError(
                f"{type(trainer.lightning_module).__name__}.configure_optimizers gives no optimizer; return one"
            )
        optimizer.state.clear()  # of a module that gives the same one again
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        _scale_rates(optimizer, schedulers, float(phase.learning_rate))

    @contextmanager
    def _as_long_as(self, phase: Phase, trainer: Trainer) -> Iterator[None]:
        """Whoever asks the Trainer how long it trains is told the phase's length."""
        index, unit = self.schedule.phases.index(phase), self._walk.unit
        length = self._walk.ends[index] - self._walk.starts[index]
        loop = trainer.fit_loop.epoch_loop if unit == "steps" else trainer.fit_loop
        name = f"max_{unit}"
        whole = getattr(loop, name)
        setattr(loop, name, length)
        try:
            yield
        finally:
            setattr(loop, name, whole)

    def _load(self, trainer: Trainer, saved: dict[str, Any]) -> None:
        unit, total = saved["length"]
        if (unit, total) != self._length:
            raise ValueError(
                f"{trainer.ckpt_path}: saved in a training of {total} {unit}, this one has {self._length[1]} "
                f"{self._length[0]}; go on as it began"
            )
        try:
            self._dsd.load_state_dict(saved)
        except ValueError as error:
            raise ValueError(f"{trainer.ckpt_path}: {error}") from error

    def _note_score(self, trainer: Trainer) -> None:
        score = trainer.callback_metrics.get(self.monitor or "")
        # What stood there as the phase began is of the one before.
        if self._dsd.is_held and score is not None and score is not self._old_score:
            # Processes that differ in which weights are the best would train different networks.
            own = score.detach().to(trainer.strategy.root_device, copy=True)
            self._dsd.note_score(trainer.strategy.reduce(own, reduce_op="mean"))


def _refuse(trainer: Trainer, module: LightningModule) -> None:
    """Raise ValueError where the training is one that masks or rates cannot follow."""
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimizes manually; let Lightning do it (automatic_optimization), or walk the "
            "phases where it does, by enter and leave of seqdsd.DSD (docs/your-own-model.md)"
        )
    strategies = {base.__name__ for base in type(trainer.strategy).__mro__}
    if not strategies & {"SingleDeviceStrategy", "DDPStrategy"} or "DeepSpeedStrategy" in strategies:
        raise ValueError(
            f"DSDCallback was tried on one device and with DDP, not with {type(trainer.strategy).__name__}, which may "
            "shard or flatten the weights; choose strategy='ddp'"
        )


def _length(trainer: Trainer, schedule: Schedule) -> tuple[str, int]:
    """In what a training is counted, and how many of them it has.

    Raises:
        ValueError: If it is not as long as the schedule.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    is_trial: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # set from outside its class
    if steps > 0 and (epochs == -1 or is_trial):
        return "steps", steps
    if epochs == schedule.total_epochs and steps == -1:
        return "epochs", schedule.total_epochs
    raise ValueError(
        f"max_epochs is {epochs}, max_steps {steps}, and the schedule has {schedule.total_epochs} epochs; give "
        f"Trainer(max_epochs={schedule.total_epochs}), or max_steps alone, of which each phase takes its share"
    )


def _scale_rates(optimizer: Optimizer, schedulers: list[Any], rate: float) -> None:
    """Give the optimizer's first group a peak of ``rate``, and all that is in proportion to it the same factor."""
    schedulers = [one for scheduler in schedulers for one in _with_those_within(scheduler)]
    for scheduler in schedulers:
        if type(scheduler).__module__ != LambdaLR.__module__ and not isinstance(scheduler, LambdaLR):
            raise ValueError(
                f"{type(scheduler).__name__} is none of torch.optim.lr_scheduler, whose rates can follow the phases'; "
                "choose one of those, such as LambdaLR"
            )
    group = optimizer.param_groups[0]
    peak = group.get("max_lr", group.get("initial_lr", group["lr"]))
    peak = next((one.max_lrs[0] for one in schedulers if hasattr(one, "max_lrs")), peak)
    if not peak:
        raise ValueError(
            "the rate of the optimizer's first group is 0, to which all others are to keep their ratios; let "
            "configure_optimizers give it one above 0"
        )
    for group in optimizer.param_groups:
        for key in group.keys() & {"lr", "initial_lr", "max_lr", "min_lr"}:
            group[key] = rate * (group[key] / peak)
    for scheduler in schedulers:
        for key in vars(scheduler).keys() & {"base_lrs", "max_lrs", "min_lrs", "_last_lr"}:
            vars(scheduler)[key] = [rate * (one / peak) for one in vars(scheduler)[key]]
        if hasattr(scheduler, "eta_min"):
            scheduler.eta_min = rate * (scheduler.eta_min / peak)


def _with_those_within(scheduler: Any) -> list[Any]:
    """A scheduler, and those that it is made of."""
    within = getattr(scheduler, "_schedulers", [])
    return [scheduler, *(one for inner in within for one in _with_those_within(inner))]
