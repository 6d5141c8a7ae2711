"""``seqdsd retrain``: many retrainings of the same converged parents, with and without pruning (Table 10 and better).

A retraining is a run of the recipe whose first phase is given: the parent's weights. The arms of a parent and repeat
have the same seed, so that they see the data in the same order. What is made of the scores is the report's business
(``seqdsd.reports.retraining``).
"""

from __future__ import annotations

import argparse
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seqdsd.config import differences, read_config
from seqdsd.engine import GivenWeights, make_fabric
from seqdsd.recipes.catalog import Recipe
from seqdsd.recipes.command import run_command
from seqdsd.recipes.start_weights import NOTED, given_run, weights_file
from seqdsd.recipes.training import LATER_PHASES, RunConfig, finished_phases, read_run_provenance
from seqdsd.records import RunFolder, RunFolderError, asked_seeds
from seqdsd.records.retraining import SETTINGS, Place
from seqdsd.reports.retraining.contrasts import headline
from seqdsd.reports.retraining.power import outlook
from seqdsd.reports.retraining.study import RetrainingStudy, retraining_studies
from seqdsd.reports.retraining.tables import across_grid, added_in_words
from seqdsd.reports.runs.reading import read_runs
from seqdsd.sparsity import Phase
from seqdsd.studies.command_line import (
    RESERVED,
    Values,
    add_recipe_options,
    add_training_options,
    parse_options,
    parse_values,
    read_settings,
    split_arguments,
    texts,
)
from seqdsd.studies.jobs import Job
from seqdsd.studies.study import carry_out, estimate, run_job

PROG = "seqdsd retrain"
SEEDS_OF_A_PARENT = 1000
"""Each parent has so many seeds for its retrainings, which no other parent's have: parents are independent."""
OF_PRUNING = ("sparsities", "restored_start")
"""Settings without effect where nothing is pruned."""

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_RESERVED_OF_ARMS = (
    *(flag for flag in RESERVED if flag not in ("--method", "--iters")),
    "--start-weights",
    "--data",
)
_SOME_PARENT = Path("parent")
_DESCRIPTION = """\
Does DSD pay on networks that are trained already? Retrain the same converged parents many times, with pruning and
without:

  parents   finished runs, or files of weights (--parents); or dense phases that are trained here, a seed each
            (--num-parents)
  dsd       sparse and redense phases: an arm for each of --sparsities and each ladder of --learning-rates
  llr       the same phases and learning rates, nothing pruned: an arm for each ladder
  repeats   of every arm from every parent; in each the data come in another order, in the same for all arms

Table 10 of the paper is one parent and 16 repeats. Retrainings of one parent hardly differ, so that its t-test speaks
of this parent alone; the report sets beside it the test across parents. Phases that arms share are trained once. Stop
it when you like: the same command goes on. More parents, repeats or arms may be asked for later; but parents and
repeats that are added after a look at a result make p-values too small, so reports multiply these by the looks.
"""
_EPILOG = """\
examples:
  seqdsd retrain recipes/mnist/lenet300.toml --num-parents 10 --repeats 4 --sparsities 0.3 0.5 0.8 --dry-run
  seqdsd retrain recipes/mnist/lenet300.toml --num-parents 10 --repeats 4 --sparsities 0.3 0.5 0.8 \\
      --learning-rates 1e-2,1e-2 1e-2,1e-3
  seqdsd retrain resnet20.toml --parents runs/a runs/b theirs.safetensors --sparsities 0.5
  seqdsd retrain ds1 --num-parents 5 --arm 'long: --epochs 20 10 40' --arm 'former: --restored-start former'
  seqdsd retrain ds1.toml --num-parents 5 -- --epochs 20 10 10      settings of the recipe, after --

then: seqdsd report runs/retrain-lenet300
"""


@dataclass(frozen=True)
class Parent:
    """Weights that are retrained."""

    number: int
    """From 0."""
    weights: Path
    """A run, or a file."""
    is_trained_here: bool

    def seed(self, repeat: int) -> int:
        """Of its retrainings of one repeat."""
        return SEEDS_OF_A_PARENT * (self.number + 1) + repeat


@dataclass(frozen=True)
class Arm:
    """One way of retraining: a name, and what it makes of the recipe's settings."""

    name: str
    config: RunConfig
    """Without parent, seed and folder."""

    def of(self, parent: Path, seed: int) -> RunConfig:
        """The settings of a retraining."""
        return replace(self.config, start_weights=parent, seed=seed)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """That are trained."""
        return self.of(_SOME_PARENT, 0).schedule.phases[1:]

    def shared_epochs(self, other: Arm) -> int:
        """Epochs of the leading phases that both have in common; 0 where other settings differ, too."""
        if any(line.split(":")[0] not in LATER_PHASES for line in differences(self.config, other.config)):
            return 0
        epochs = 0
        for mine, theirs in zip(self.phases, other.phases, strict=False):
            is_restored_otherwise = self.config.restored_start != other.config.restored_start
            if mine != theirs or (mine.kind == "redense" and is_restored_otherwise):
                break
            epochs += mine.epochs
        return epochs


@dataclass(frozen=True)
class RetrainPlan:
    """What is asked, resolved."""

    recipe: Recipe
    common: RunConfig
    """What all runs have in common, but for what makes an arm."""
    chosen: Mapping[str, Any]
    """What of it was chosen for the corpus, by which measure."""
    arms: tuple[Arm, ...]
    parents: tuple[Parent, ...]
    repeats: int
    out: Path

    @property
    def settings(self) -> Path:
        """The file of what all runs have in common."""
        return self.out / SETTINGS

    def settings_of(self, arm: Arm) -> Path:
        """The file of an arm's settings."""
        return self.out / "arms" / f"{arm.name}.toml"

    def jobs(self) -> list[Job]:
        """See ``Study``: the parents that are trained here, and the first repeat of all before the second."""
        self.recipe.check_common(self.settings, self.common)
        return [
            job
            for repeat in range(self.repeats)
            for parent in self.parents
            for job in (
                *([self._parent_job(parent)] if parent.is_trained_here and not repeat else []),
                *(self._job(parent, repeat, arm) for arm in self.arms),
            )
        ]

    def write_settings(self) -> None:
        """See ``Study``."""
        self.recipe.write_common(self.settings, self.common, self.chosen)
        for arm in self.arms:
            self.recipe.write_common(self.settings_of(arm), arm.config, self.chosen)
        _note_asked(self)

    @cached_property
    def shared(self) -> Mapping[str, tuple[Arm, int]]:
        """Of each arm that has leading phases of one before it: the one that has most of them, and their epochs."""
        found = {}
        for number, arm in enumerate(self.arms):
            epochs, place = max(
                ((one.shared_epochs(arm), -place) for place, one in enumerate(self.arms[:number])),
                default=(0, 0),
            )
            if epochs:
                found[arm.name] = (self.arms[-place], epochs)
        return found

    def has_begun(self, parent: Parent) -> bool:
        """Whether all its retrainings have begun: then they no longer need it."""
        runs = (self._name(parent, repeat, arm) for repeat in range(self.repeats) for arm in self.arms)
        return all(RunFolder(self.out / run).config.is_file() for run in runs)

    def begun_with(self, parent: Parent) -> set[str]:
        """The sha256 of its weights, as those of its retrainings noted it that have begun."""
        runs = (RunFolder(self.out / self._name(parent, 0, arm)) for arm in self.arms)
        noted = [read_run_provenance(run).get(NOTED) for run in runs if run.config.is_file()]
        # Retrainings of another parent, whose number this one has now, are refused as runs with other settings.
        return {one["sha256"] for one in noted if one and Path(one["file"]).is_relative_to(parent.weights)}

    def _name(self, parent: Parent, repeat: int, arm: Arm) -> str:
        return Place(self.out, parent.number, repeat, arm.name).name

    def _parent_job(self, parent: Parent) -> Job:
        return run_job(
            self.recipe,
            replace(self.common, iters=0, seed=parent.number),
            out=self.out,
            name=Place(self.out, parent.number).name,
            settings=self.settings,
            flags=["--method", "dsd", "--iters", "0"],
        )

    def _job(self, parent: Parent, repeat: int, arm: Arm) -> Job:
        first, shared_epochs = self.shared.get(arm.name, (None, 0))
        return run_job(
            self.recipe,
            arm.of(parent.weights, parent.seed(repeat)),
            out=self.out,
            name=self._name(parent, repeat, arm),
            settings=self.settings_of(arm),
            flags=["--start-weights", str(parent.weights)],
            needs=Place(self.out, parent.number).name if parent.is_trained_here else None,
            takes_over=self._name(parent, repeat, first) if first else None,
            shared_epochs=shared_epochs,
        )


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd retrain``."""
    run_command(lambda: retrain(argv, Console()))


def retrain(argv: Sequence[str], console: Console) -> None:
    """Parse the command line and do as it says.

    Raises:
        ValueError: For settings, parents or folders that cannot be used.
        JobsFailed: If a run failed.
        StopRequested: After Ctrl-C.
    """
    plan, options = read_plan(argv, console)
    check_parents(plan)
    if options.dry_run:
        console.print(_arms_table(plan))
        console.print(f"parents: {len(plan.parents)}, repeats of each arm from each: {plan.repeats}")
        new = _asked(plan)
        console.print(
            outlook(_trained(plan.out), len(plan.parents), seeds=_seeds(plan), new=new),
            highlight=False,
            markup=False,
        )
        if new and (warning := added_in_words(new)):
            console.print(warning, style="yellow", highlight=False, markup=False)
        estimate(plan, options, console)
    elif carry_out(plan, options, console):
        show_result(plan.out, console)


def _note_asked(plan: RetrainPlan) -> None:
    """Keep which retrainings are asked for, and say it where they are added after a look at a result."""
    if asked := _asked(plan):
        asked_seeds.note_asked_seeds(plan.out, asked)
        if warning := added_in_words(asked):
            Console(stderr=True).print(warning, style="yellow", highlight=False, markup=False)


def _seeds(plan: RetrainPlan) -> list[int]:
    return [parent.seed(repeat) for parent in plan.parents for repeat in range(plan.repeats)]


def _asked(plan: RetrainPlan) -> asked_seeds.AskedSeeds | None:
    # A folder from before it was kept does not tell what it was asked for: not that it was less than this.
    is_kept = (plan.out / asked_seeds.FILE).is_file()
    trained = _trained(plan.out) if is_kept else ()
    with_results = {seed for study in trained for seed in study.seeds_with_results}
    return asked_seeds.newly_asked(plan.out, _seeds(plan), with_results=with_results)


def _trained(out: Path) -> Sequence[RetrainingStudy]:
    """What the folder holds already."""
    try:
        return retraining_studies(read_runs([out]).runs)[0]
    except RunFolderError:  # no runs yet
        return ()


def show_result(out: Path, console: Console) -> None:
    """Print the contrasts across parents, and what they come to.

    Raises:
        RunFolderError: If there is no run.
    """
    run_set = read_runs([out])
    for refusal in run_set.refused:
        console.print(f"not counted: {refusal.message}", style="yellow", markup=False, soft_wrap=True)
    for study in retraining_studies(run_set.runs)[0]:
        for split in study.splits:
            console.print(across_grid(study, split=split, metric=study.kind.primary).to_terminal())
        console.print(f"\n{headline(study)}", highlight=False, markup=False)
    report = shlex.join(["seqdsd", "report", str(out)])
    console.print(
        f"\nAll of it, parent by parent, as a page: {report}", highlight=False, markup=False, soft_wrap=True
    )


def make_arms(common: RunConfig, sparsities: Iterable[Values], ladders: Iterable[Values]) -> list[Arm]:
    """For every ladder LLR and, with each of the sparsities, DSD; ladders that come to the same are one.

    Args:
        common: The recipe's settings.
        sparsities: One a round each.
        ladders: Learning rates after the parent's, one a phase each.

    Raises:
        ValueError: If a ladder has not a rate for each phase, or a value is out of range.
    """
    arms = []
    for ladder in ladders:
        if len(ladder) != 2 * common.iters:
            raise ValueError(
                f"--learning-rates {','.join(texts(ladder))}: give one for each of the {2 * common.iters} phases after "
                "the parent, with commas between"
            )
        config = replace(common, learning_rates=(common.learning_rates[0], *ladder))
        for pruned in sparsities:
            dsd = _named(replace(config, sparsities=pruned))
            arms += [without_pruning(dsd, common), dsd]
    return list({arm.name: arm for arm in arms}.values())


def without_pruning(arm: Arm, common: RunConfig, *, name: str | None = None) -> Arm:
    """LLR beside an arm: the same phases and learning rates, and all else, but nothing is pruned."""
    own = {setting: getattr(common, setting) for setting in OF_PRUNING}
    config = replace(arm.config, method="llr", **own)
    return Arm(name, config) if name else _named(config)


def with_own_arms(arms: Sequence[Arm], own: Sequence[Arm], common: RunConfig) -> list[Arm]:
    """The arms, and those that were described one by one; LLR beside each of these, where it is not there yet.

    Raises:
        ValueError: If an arm is there twice, by its name or by its settings.
    """
    made = list(arms)
    for arm in own:
        for one in made:
            if one.name == arm.name or one.config == arm.config:
                raise ValueError(
                    f"--arm {arm.name}: {'another' if one.name == arm.name else one.name} is there with the same "
                    f"{'name' if one.name == arm.name else 'settings'}; leave one of them out"
                )
        llr = without_pruning(arm, common, name=f"llr-{arm.name}")
        made += [one for one in (llr, arm) if one.config not in [other.config for other in made]]
    return made


def check_parents(plan: RetrainPlan) -> None:
    """See that parents that are given, and are still needed, are finished, of this network, and not the same twice.

    Raises:
        ValueError: If one is not; the message names it.
    """
    given = [parent for parent in plan.parents if not parent.is_trained_here and not plan.has_begun(parent)]
    known = {digest: parent.weights for parent in plan.parents for digest in plan.begun_with(parent)}
    task = None
    for parent in given:
        config = plan.arms[0].of(parent.weights, parent.seed(0))
        if parent.weights.is_dir():
            _check_finished(RunFolder(parent.weights), plan.recipe)
        run = given_run(config, plan.recipe.name, part=plan.recipe.spelling)
        weights = GivenWeights.read(weights_file(config))
        if (twin := known.setdefault(weights.sha256, parent.weights)) is not parent.weights:
            raise ValueError(
                f"{parent.weights}: the same weights as {twin}; a parent counts once, so leave one of them out"
            )
        if task is None:
            fabric = make_fabric(config.device, config.precision)
            task = plan.recipe.make_task(config, run, fabric, weights)
        weights.give_to(task.model)


def _check_finished(run: RunFolder, recipe: Recipe) -> None:
    if not run.config.is_file():
        raise RunFolderError(f"{run.path}: no run in it; --parents takes finished runs, and files of weights")
    if (its_recipe := read_run_provenance(run).get("recipe")) != recipe.name:
        raise RunFolderError(
            f"{run.path}: a run of {its_recipe!r}, which {recipe.name!r} cannot retrain; name its own recipe"
        )
    config = read_config(run.config, recipe.config_class())
    if finished_phases(run, config) is None:
        raise RunFolderError(
            f"{run.path}: not a finished run; finish it first (python -m {recipe.module} --resume --config "
            f"{run.config}), or name the file of one of its phases (checkpoints/dense-iter-0.safetensors)"
        )


def _named(config: RunConfig) -> Arm:
    """An arm whose name says what is pruned, and at which rates its phases begin."""
    phases = Arm("", config).phases
    pruned = [phase.sparsity for phase in phases if phase.sparsity]
    rates = "-".join(texts(tuple(phase.learning_rate for phase in phases)))
    return Arm(f"{'-'.join(['dsd', *texts(tuple(pruned))]) if pruned else 'llr'}_{rates}", config)


def _arms_table(plan: RetrainPlan) -> Table:
    table = Table("arm", "epochs", "of them new", "sparsity", "learning rates", title=plan.recipe.name)
    table.columns[0].no_wrap = True
    for arm in plan.arms:
        phases, (_, shared) = arm.phases, plan.shared.get(arm.name, (None, 0))
        epochs = sum(phase.epochs for phase in phases)
        pruned = ", ".join(f"{phase.sparsity:g}" for phase in phases if phase.sparsity) or "-"
        rates = ", ".join(f"{phase.learning_rate:g}" for phase in phases)
        table.add_row(arm.name, str(epochs), str(epochs - shared), pruned, rates)
    return table


def read_plan(argv: Sequence[str], console: Console) -> tuple[RetrainPlan, argparse.Namespace]:
    """What a command line asks for, and its options.

    Raises:
        ValueError: For settings that cannot be used.
    """
    asked, settings = split_arguments(argv)
    options = parse_options(_parser(), asked)
    recipe, common, chosen, out = read_settings(
        options,
        settings,
        prog=PROG,
        settings_name=SETTINGS,
        reserved=(*RESERVED, "--start-weights", "--sparsities", "--learning-rates"),
        console=console,
    )
    if common.start_weights is not None:
        raise ValueError(f"start_weights {common.start_weights}: name what is retrained by --parents instead")
    if common.iters < 1:
        raise ValueError(f"a retraining needs at least one round (--iters 1), got {common.iters}")
    common = replace(common, seed=0, method="dsd", out=out)
    retrained = common.with_fresh_weights()  # not with those that parents began with
    usual = replace(retrained, start_weights=_SOME_PARENT).schedule.phases[1:]
    ladder = tuple(float(phase.learning_rate) for phase in usual)
    arms = make_arms(
        retrained,
        options.sparsities or [common.sparsities],
        options.learning_rates or [ladder],
    )
    own = [_described_arm(text, retrained, recipe) for text in options.arm]
    arms = with_own_arms(arms, own, retrained)
    parents = _parents(options, out)
    return RetrainPlan(recipe, common, chosen, tuple(arms), parents, options.repeats, out), options


def _parents(options: argparse.Namespace, out: Path) -> tuple[Parent, ...]:
    if options.parents:
        return tuple(Parent(number, path, False) for number, path in enumerate(options.parents))
    return tuple(Parent(number, out / Place(out, number).name, True) for number in range(options.num_parents))


def _described_arm(text: str, common: RunConfig, recipe: Recipe) -> Arm:
    """Of ``NAME: FLAGS``, the flags being the recipe's.

    Raises:
        ValueError: If it cannot be used.
    """
    name, colon, flags = (part.strip() for part in text.partition(":"))
    if not colon or not _ARM_NAME.fullmatch(name):
        raise ValueError(f"--arm: expected 'NAME: FLAGS', the name of letters, digits and ._+-, got {text!r}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "common.toml"
        recipe.write_common(file, common, {})
        config, _ = recipe.settings(
            file, shlex.split(flags), prog=f"{PROG} --arm {name}", reserved=_RESERVED_OF_ARMS
        )
    if config.method not in ("dsd", "llr") or config.iters < 1:
        raise ValueError(f"--arm {name}: --method must be dsd or llr, and --iters at least 1")
    return Arm(name, replace(config, out=common.out))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= SEEDS_OF_A_PARENT:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to {SEEDS_OF_A_PARENT}, got {text!r}"
        )
    return int(text)


def _repeats(text: str) -> int:
    if (number := _positive(text)) < 2:
        raise argparse.ArgumentTypeError(
            "must be at least 2: one retraining of a parent does not tell how much they scatter"
        )
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} RECIPE (--parents RUN … | --num-parents N) [OPTIONS] [-- SETTINGS]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_recipe_options(parser)
    parents = parser.add_mutually_exclusive_group(required=True)
    parents.add_argument(
        "--parents",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="finished runs (each one's best phase on dev), or files of weights (safetensors, torch, .dsdz); in the "
        "same order each time, new ones last",
    )
    parents.add_argument(
        "--num-parents",
        type=_positive,
        metavar="N",
        help="train so many first: one dense phase each, of seeds 0 to N - 1",
    )
    add(
        "--repeats",
        type=_repeats,
        default=4,
        metavar="R",
        help="retrainings of each parent in each arm; default: 4",
    )
    add(
        "--sparsities",
        type=parse_values,
        nargs="+",
        metavar="S[,S…]",
        help="an arm of DSD for each: one a round, commas between; by default the recipe's",
    )
    add(
        "--learning-rates",
        type=parse_values,
        nargs="+",
        metavar="R[,R…]",
        help="arms for each ladder: one a phase after the parent, commas between (sparse,redense); by default the "
        "recipe's",
    )
    add(
        "--arm",
        action="append",
        default=[],
        metavar="'NAME: FLAGS'",
        help="one more arm, by flags of the recipe (of --epochs and --learning-rates the first stand for the parent); "
        "its like without pruning comes with it; may be repeated",
    )
    add("--iters", type=int, metavar="N", help="rounds; by default the recipe's")
    add("--out", type=Path, help="folder of the study; by default runs/retrain-NAME")
    add_training_options(
        parser,
        dry_run="print arms, epochs, an estimate of the time from one measured epoch, and what the parents "
        "will be able to tell apart by the scatter of those that are trained",
    )
    return parser
