"""DSD in Hugging Face's ``Trainer``: one ``train()`` walks all phases of a schedule.

What happens at which of the Trainer's steps; phases, masks and holding are ``seqdsd.sparsity.DSD``'s. Needs
``pip install 'seqdsd[transformers]'``.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from seqdsd.integrations.walk import Walk
from seqdsd.records import write_atomically
from seqdsd.sparsity import DSD, RestoredStart, Rule, Schedule
from seqdsd.sparsity.controller import Best
from seqdsd.sparsity.held_weights import is_sharded

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
        get_scheduler,
    )
except ImportError as error:
    raise ImportError(
        "seqdsd.integrations.transformers needs Hugging Face's Trainer: pip install 'seqdsd[transformers]'"
    ) from error

STATE_FILE = "dsd.safetensors"
"""In each checkpoint folder: the masks at one bit a weight, and in its metadata, as JSON, where the training stands."""

_BEST, _FORMER = "best/", "former/"


class DSDCallback(TrainerCallback):
    """Dense-Sparse-Dense training in one ``Trainer.train()``.

        trainer = Trainer(model, arguments, callbacks=[DSDCallback(schedule, rules)], …)
        trainer.train()

    - **Phases**: where ``num_train_epochs`` is the schedule's ``total_epochs``, its own epochs; with ``max_steps`` each
      takes its share of them. Each begins with a fresh optimizer state.
    - **Rates** are the schedule's: ``arguments.learning_rate`` is not used. Within a phase the rate has the shape that
      the Trainer's scheduler (``lr_scheduler_type``, ``warmup_steps``, ``lr_scheduler_kwargs``) gives a training of as
      many steps. Parameter groups keep the ratios of their rates to the first group's.
    - **Checkpoints** hold the masks and the position (``STATE_FILE``); ``resume_from_checkpoint`` goes on anywhere.
    - **Best weights**: with ``load_best_model_at_end`` the best score is counted anew in each phase, which hands on its
      best weights (``STATE_FILE`` holds them, too); without it each hands on its last.
    - **Logs**: ``dsd/zeros``, the share of exact zeros among all weights that some phase prunes, and ``dsd/phase``,
      counted from 0: beside the loss and at each phase's end. In a redense phase ``dsd/restored``, the mean |w| of the
      restored weights in shares of what it was before; a phase that ends with too little of it is warned of.

    Whatever ends ``train()``, nothing holds the weights after it.

    Attributes:
        schedule: All phases.
        rules: What is pruned.
        dsd: The phases and masks of the training that runs, or of the last one; None before.
    """

    # Set as a training begins.
    _walk: Walk
    _pushed_step: int | None

    def __init__(
        self,
        schedule: Schedule,
        rules: Iterable[Rule],
        *,
        restored_start: RestoredStart = "zero",
        make_fresh: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Nothing happens yet.

        Args:
            schedule: As long as the training. ``schedule.lower_learning_rate_only()`` is the control without pruning.
            rules: What is pruned (``SPEECH_RULES``, ``CAPTION_RULES``, ``VISION_RULES``, or your own).
            restored_start: What pruned weights begin the redense phase with (see ``DSD``); ``former`` is in
                ``STATE_FILE`` until then.
            make_fresh: For ``fresh``: builds the model with the weights of its initialisation, which the Trainer's
                ``seed`` decides.
        """
        self.schedule, self.rules = schedule, tuple(rules)
        self._restored_start: RestoredStart = restored_start
        self._make_fresh = make_fresh
        self.dsd: DSD | None = None
        self._trainer: Trainer | None = None
        self._resumed_from: str | PathLike[str] | bool | None = None

    def watch(self, trainer: Trainer) -> None:
        """Be a callback of a Trainer that exists already; of ``Trainer(callbacks=[…])`` this is done.

        Raises:
            ValueError: If the schedule is longer or shorter than the training, a rule matches nothing, or the Trainer
                trains in a way that masks cannot follow.
        """
        _refuse(trainer, self.schedule)
        assert trainer.model is not None
        self._make_dsd(trainer.model, trainer.args)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        # Callbacks are told neither of exceptions nor of the folder from which a training goes on.
        vars(trainer)["train"] = functools.partial(self._train, trainer, trainer.train)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See ``watch``."""
        self.watch(_calling_trainer())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stand where the training begins, or goes on.

        Raises:
            ValueError: If the training has too few steps, its scheduler is no function of the step, its optimizer lacks
                weights that are to be pruned, or its checkpoint is of another schedule, model or length.
        """
        if self._trainer is None:
            raise RuntimeError(
                "DSDCallback was added after the Trainer was made; call callback.watch(trainer) in place of "
                "trainer.add_callback(callback)"
            )
        if state.is_hyper_param_search:
            raise ValueError("DSDCallback cannot search hyperparameters: make a Trainer for each trial")
        self._release()  # what a first try left, with auto_find_batch_size
        self._pushed_step = None
        self.dsd = self._make_dsd(kwargs["model"], args)
        self._walk = Walk(self.dsd, "steps", state.max_steps)
        self.dsd.check(kwargs["optimizer"])
        if state.global_step:
            self._load(args, state)
        _set_curve(kwargs["lr_scheduler"], self._rate(args))
        if not kwargs[
            "lr_scheduler"
        ].last_epoch:  # also of a checkpoint of ``save_only_model``, which has no scheduler
            _set_step(kwargs["lr_scheduler"], state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a phase, or go on with it after a break."""
        is_over = self._walk.end_phase_if_over(state.global_step, kwargs["optimizer"])
        if self._dsd.is_held:
            return
        if is_over or not state.global_step:
            kwargs["optimizer"].state.clear()
            _set_step(kwargs["lr_scheduler"], state.global_step)  # it lags where steps were skipped
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        self._dsd.enter(kwargs["optimizer"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report zeros at a phase's end."""
        if state.global_step in self._walk.ends:
            should_log = control.should_log
            self._log()
            control.should_log = should_log  # or the loss would not be logged

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the weights if they are the phase's best."""
        if self.dsd is not None and self.dsd.is_held and _best(args):
            name = str(args.metric_for_best_model)
            score = kwargs["metrics"].get(name if name.startswith("eval_") else f"eval_{name}")
            if score is not None:
                self.dsd.note_score(score)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the last phase, if its time is over."""
        self._walk.end_phase_if_over(state.global_step, kwargs["optimizer"])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report zeros beside the loss."""
        is_held = self.dsd is not None and self.dsd.is_held
        if "loss" in kwargs["logs"] and is_held and state.global_step not in self._walk.ends:
            self._log()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write ``STATE_FILE`` into the checkpoint's folder."""
        # Not while it is uploaded in another thread: that may find the temporary file, too.
        if self._pushed_step != state.global_step:
            self._save(args, state)
        self._pushed_step = None

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write ``STATE_FILE`` before the checkpoint is uploaded; ``on_save`` comes after it, or without it."""
        if self.dsd is not None and self.dsd.is_held and _folder(args, state).is_dir():
            self._save(args, state)
            self._pushed_step = state.global_step

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        if args.should_save:
            position = self._dsd.state_dict()
            masks, best, former = (position.pop(key) for key in ("masks", "best_weights", "former_weights"))
            position |= {"step": state.global_step, "max_steps": state.max_steps}
            # The format holds no tensor twice, as tied ones are here.
            tensors = masks | {_BEST + name: weight.clone() for name, weight in best.items()}
            tensors |= {_FORMER + name: values for name, values in former.items()}
            content = safetensors.torch.save(tensors, metadata={"dsd": json.dumps(position)})
            write_atomically(_folder(args, state) / STATE_FILE, content)

    def _make_dsd(self, model: nn.Module, args: TrainingArguments) -> DSD:
        return DSD(
            model,
            self.schedule,
            self.rules,
            best=_best(args),
            restored_start=self._restored_start,
            make_fresh=self._make_fresh,
            seed=args.seed,
        )

    @property
    def _dsd(self) -> DSD:
        assert self.dsd is not None
        return self.dsd

    def _train(
        self,
        trainer: Trainer,
        train: Callable[..., Any],
        resume_from_checkpoint: str | PathLike[str] | bool | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The Trainer's ``train``, after which nothing holds the weights."""
        self._trainer, self._resumed_from = trainer, resume_from_checkpoint
        try:
            result = train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._release()
            self._trainer = None
        self._walk.warn_if_unfinished(trainer.state.global_step)
        return result

    def _release(self) -> None:
        if self.dsd is not None:
            self.dsd.release()

    def _load(self, args: TrainingArguments, state: TrainerState) -> None:
        """Stand where the checkpoint stood that the Trainer has just loaded."""
        given = self._resumed_from
        folder = Path(given) if isinstance(given, str | PathLike) else _folder(args, state)
        path = folder / STATE_FILE
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: {folder} was not saved, or not to its end, with a DSDCallback; go on from another "
                "checkpoint"
            )
        try:
            with safetensors.safe_open(path, "pt") as file:
                position = json.loads(file.metadata()["dsd"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            here = {"step": state.global_step, "max_steps": state.max_steps}
            for name, number in here.items():
                if position[name] != number:
                    raise ValueError(f"saved with {name} {position[name]}, here {number}; go on as it began")
            masks = {name: one for name, one in tensors.items() if not name.startswith((_BEST, _FORMER))}
            best, former = _under(_BEST, tensors), _under(_FORMER, tensors)
            self._dsd.load_state_dict(
                position | {"masks": masks, "best_weights": best, "former_weights": former}
            )
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def _rate(self, args: TrainingArguments) -> Callable[[int], float]:
        """The rate of each step: the phase's, times what the Trainer's scheduler makes of 1 in a training as long."""
        starts = self._walk.starts
        shapes = [
            _shape(args, phase.learning_rate, end - start)
            for phase, start, end in zip(self.schedule, starts, self._walk.ends, strict=True)
        ]

        def rate(step: int) -> float:
            index = self._walk.index_at(step)
            return self.schedule.phases[index].learning_rate * shapes[index](step - starts[index])

        return rate

    def _log(self) -> None:
        assert self._trainer is not None
        self._trainer.log(self._walk.report())


def _calling_trainer() -> Trainer:
    """The Trainer whose ``__init__`` runs now: a callback is not told of it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(trainer := frame.f_locals.get("self"), Trainer):
            return trainer
        frame = frame.f_back
    raise RuntimeError("on_init_end is called by Trainer; call callback.watch(trainer)")


def _refuse(trainer: Trainer, schedule: Schedule) -> None:
    """Raise ValueError where the Trainer trains in a way that masks or rates cannot follow."""
    args, epochs = trainer.args, schedule.total_epochs
    if args.max_steps <= 0 and args.num_train_epochs != epochs:
        raise ValueError(
            f"num_train_epochs is {args.num_train_epochs:g}, the schedule has {epochs} epochs; give "
            f"TrainingArguments(num_train_epochs={epochs}), or max_steps, of which each phase takes its share"
        )
    assert trainer.model is not None  # what model_init gives is there, too
    classes = {base for module in trainer.model.modules() for base in type(module).__mro__}
    if any(base.__module__.partition(".")[0] == "peft" for base in classes):
        raise ValueError(
            "the model is a PEFT one, whose own weights do not train, and its adapters are small already; give the "
            "Trainer model.merge_and_unload() to train all weights"
        )
    is_sharding = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if is_sharding or any(map(is_sharded, trainer.model.parameters())):
        raise ValueError(
            "DSDCallback was not tried with DeepSpeed or FSDP, which shard or flatten the weights; train by DDP"
        )
    if "schedule_free" in args.optim:
        raise ValueError(
            "schedule-free optimizers train other weights than the model's; choose an optim with a schedule, such as "
            "adamw_torch"
        )
    # Older Trainers lack the attribute until they are made.
    has_own = trainer.lr_scheduler is not None and not getattr(trainer, "_created_lr_scheduler", False)
    if has_own or type(trainer).create_scheduler is not Trainer.create_scheduler:
        raise ValueError(
            "the Trainer was given a scheduler of its own, but rates are the schedule's; give optimizers=(optimizer, "
            "None), or leave create_scheduler as it is, and the shape within phases by lr_scheduler_type"
        )


def _best(args: TrainingArguments) -> Best | None:
    """Which score is the better one, if best weights were asked for."""
    if not args.load_best_model_at_end:
        return None
    return "highest" if args.greater_is_better else "lowest"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _shape(args: TrainingArguments, learning_rate: float, num_steps: int) -> Callable[[int], float]:
    """What the Trainer's scheduler multiplies ``learning_rate`` by in a training of ``num_steps``."""
    # An optimizer of its own, for some shapes ask for its rate, and all change it.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
    special: Any = args.lr_scheduler_kwargs
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=special,
    )
    return _checked(scheduler).lr_lambdas[0]


def _checked(scheduler: Any) -> LambdaLR:
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"{type(scheduler).__name__} is no function of the step, which could begin anew in each phase; choose "
            "another lr_scheduler_type"
        )
    return scheduler


def _set_curve(scheduler: Any, rate: Callable[[int], float]) -> None:
    """Let the Trainer's scheduler, which steps and is saved as ever, follow ``rate``."""
    first, *others = _checked(scheduler).base_lrs
    if not first and any(others):
        raise ValueError(
            "the rate of the optimizer's first group is 0, to which the others' are to keep their ratios; give it one "
            "above 0"
        )
    # 1 where all groups have the same.
    scheduler.base_lrs = [base / first if first else 1.0 for base in scheduler.base_lrs]
    scheduler.lr_lambdas = [rate] * len(scheduler.base_lrs)


def _set_step(scheduler: LambdaLR, step: int) -> None:
    scheduler.last_epoch = step
    rates = [base * of(step) for base, of in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
