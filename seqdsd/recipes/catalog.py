"""The recipes by name, and what commands over many runs of one need: its settings, and whether a run is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from seqdsd.config import differences, read_config, read_provenance, to_toml
from seqdsd.data import OnBadData
from seqdsd.engine import Task
from seqdsd.kinds import KIND_OF_RECIPE, Kind
from seqdsd.models import CLASSIFIERS
from seqdsd.recipes import ds1, ds2, neuraltalk, speech, vision
from seqdsd.recipes.command import parse_command
from seqdsd.recipes.fitting import Fitted, Planned, show_choices
from seqdsd.recipes.training import RunConfig, finished_phases, holds_run
from seqdsd.records import RunFolder, RunFolderError, checked_provenance, provenance, write_atomically

_RUNS_OF_STUDIES = ("seed-*/*", "parent-*/*", "parent-*/repeat-*/*")
"""Where runs lie below the file of what they have in common."""


class UnknownRecipe(ValueError):
    """It cannot be told which recipe is meant."""


@dataclass(frozen=True)
class Recipe:
    """What commands over recipes need to know of one."""

    name: str
    config_class: type[Any]
    without_data: Callable[[], Any]
    """Settings for the embedded corpus."""
    with_data: Callable[[Path, OnBadData, Planned], Fitted] | None
    """Settings that fit the corpus in a folder; None where they are the class's own."""
    may_change: tuple[str, ...]
    """Settings that do not change what is trained."""
    make_task: Callable[..., Task[Any]]
    """What is trained: of settings, a run whose outputs' meaning goes on, a Fabric, and the weights that are given."""
    save_parts: Callable[[Any, Path], Mapping[str, Any]]
    """Writes what the task's weights need beside them into a folder; what is to be noted of it."""
    spelling: str
    """The settings that decide what the network's outputs mean."""
    file_names: tuple[str, ...] = ()
    """With what its settings files' names may begin, beside its own name."""

    @property
    def kind(self) -> Kind:
        """Of what it trains."""
        return KIND_OF_RECIPE[self.name]

    @property
    def module(self) -> str:
        """For ``python -m``."""
        return f"seqdsd.recipes.{self.name}"

    def settings(
        self,
        file: Path | None,
        arguments: Sequence[str],
        *,
        prog: str,
        reserved: Sequence[str],
        iters: int | None = None,
        common: Path | None = None,
        console: Console | None = None,
    ) -> tuple[RunConfig, Mapping[str, Any]]:
        """The settings of a file, or those that fit the corpus, under those of a command line.

        Where runs have been begun with settings that fitted the corpus, these are gone on with: it may have been
        mended or have grown since, and others would fit now.

        Args:
            file: Settings file; None takes the embedded corpus, unless the command line names data.
            arguments: Flags of the recipe.
            prog: The command that asks, for its messages.
            reserved: Flags that may not be among them, since the command decides what they would.
            iters: Rounds, where the command itself sets them: how long a training is decides about other settings, too.
            common: Settings file of the runs begun before, if any.
            console: Where it is said what was chosen for the corpus, and why.

        Returns:
            The settings, and what is to be noted of them: what was chosen for the corpus, and by which measure.

        Raises:
            ConfigError: If a file cannot be used.
            ValueError: If a flag is reserved.
            SystemExit: After a wrong flag.
        """
        for argument in arguments:
            flag = argument.split("=")[0].replace("_", "-").replace("--no-", "--", 1)
            if flag in reserved:
                raise ValueError(f"{argument} after --: {prog} decides that itself; see {prog} --help")
        chosen = self._chosen_before(common) if common and file is None else {}
        parsed = parse_command(
            self.config_class,
            prog=f"{prog} … --",
            description=f"Settings of the {self.name} recipe.",
            without_data=self.without_data,
            with_data=self.with_data,
            chosen_before=common if chosen else None,
            argv=[
                *(["--config", str(file)] if file else []),
                *([] if iters is None else ["--iters", str(iters)]),
                *arguments,
            ],
        )
        if parsed.fitted and console:
            show_choices(parsed.fitted, parsed.settings, console)
        return parsed.settings, parsed.fitted.provenance(parsed.settings) if parsed.fitted else chosen

    def _chosen_before(self, path: Path) -> Mapping[str, Any]:
        """What the settings file of runs begun before notes of its choices for the corpus; empty where it has none."""
        if not _has_runs(path) or _recipe_in(path) != self.name:
            return {}
        noted = read_provenance(path)
        return {key: noted[key] for key in ("chosen_automatically", "corpus") if key in noted}

    def check_common(self, path: Path, config: RunConfig, *, of_each: Sequence[str] = ()) -> None:
        """See that runs which have ``config`` in common fit to those that have been begun below the file's folder.

        Args:
            path: Settings file of the runs begun before, if any.
            config: What the runs have in common.
            of_each: Settings in it that each run has of its own.

        Raises:
            RunFolderError: If the file is of another recipe, or has other settings.
            ConfigError: If it cannot be read.
        """
        if not _has_runs(path):
            return
        if (its_recipe := _recipe_in(path)) != self.name:
            raise RunFolderError(
                f"{path}: of runs of {its_recipe!r}, among which {self.name!r} has no place; take another --out"
            )
        found = differences(read_config(path, self.config_class()), config)
        may_differ = (*self.may_change, *of_each)
        if changed := [line for line in found if line.split(":")[0] not in may_differ]:
            raise RunFolderError(
                f"{path}: the runs there have other settings ({'; '.join(changed)}); take another --out"
            )

    def write_common(self, path: Path, config: RunConfig, chosen: Mapping[str, Any]) -> None:
        """Write what runs have in common, for them to be started from, and what of it was chosen for the corpus."""
        write_atomically(path, to_toml(config, {"recipe": self.name, **chosen, **provenance(config.seed)}))

    def has_finished(self, folder: RunFolder, config: RunConfig) -> bool:
        """Whether the folder holds the complete run with these settings.

        Raises:
            RunFolderError: If another run is there, or its settings or records are damaged.
        """
        try:
            is_there = holds_run(folder, config, resume=True, may_change=self.may_change)
            return is_there and finished_phases(folder, config) is not None
        except ValueError as error:
            raise RunFolderError(f"{error}; or remove {folder.path}, and it is trained again") from error


RECOGNISERS = {recipe.name: recipe for recipe in (ds1.RECIPE, ds2.RECIPE)}
"""The recipes that train recognisers."""

RECIPES = {
    **{
        name: Recipe(
            name,
            recipe.config_class,
            recipe.embedded_settings,
            recipe.fit,
            speech.MAY_CHANGE_ON_RESUME,
            recipe.make_task_with,
            speech.save_parts,
            "tokenizer",
        )
        for name, recipe in RECOGNISERS.items()
    },
    neuraltalk.RECIPE: Recipe(
        neuraltalk.RECIPE,
        neuraltalk.Config,
        neuraltalk.embedded_settings,
        None,
        neuraltalk.MAY_CHANGE_ON_RESUME,
        neuraltalk.make_task_with,
        neuraltalk.save_parts,
        "vocabulary",
    ),
    vision.RECIPE: Recipe(
        vision.RECIPE,
        vision.Config,
        vision.embedded_settings,
        None,
        vision.MAY_CHANGE_ON_RESUME,
        vision.make_task_with,
        vision.save_parts,
        "images",
        file_names=tuple(CLASSIFIERS),
    ),
}


def find_recipe(named: str, recipe: str | None) -> tuple[Recipe, Path | None]:
    """The recipe, and the settings file if one is named.

    Args:
        named: A settings file whose name begins with its recipe's (``recipes/an4/ds1.toml``) or, of a classifier, its
            network's (``recipes/mnist/lenet5.toml``); a run's ``config.toml``; or a recipe's name alone.
        recipe: The recipe's name, where the file does not tell it.

    Raises:
        UnknownRecipe: If it cannot be told.
        ConfigError: If the file cannot be read.
    """
    known, path = ", ".join(RECIPES), Path(named)
    if named in RECIPES and recipe in (None, named):
        return RECIPES[named], None
    if not path.exists():
        raise UnknownRecipe(f"{named}: neither a settings file nor a recipe; recipes are {known}")
    by_name = recipe_by_name(path)
    name = recipe or _recipe_in(path) or by_name
    if name not in RECIPES:
        said = f"{name!r} is none" if name else "its name does not begin with one"
        raise UnknownRecipe(f"{path}: which recipe is it for? {said} of {known}; say so by --recipe")
    return RECIPES[name], path


def recipe_by_name(path: Path) -> str | None:
    """The recipe that a settings file is for, by how its name begins."""
    return next(
        (name for name, one in RECIPES.items() if path.stem.startswith((name, *one.file_names))), None
    )


def _has_runs(path: Path) -> bool:
    """Whether runs have been begun with the settings of a file, below its folder."""
    return path.is_file() and any(
        config for runs in _RUNS_OF_STUDIES for config in path.parent.glob(f"{runs}/config.toml")
    )


def _recipe_in(path: Path) -> str | None:
    """The recipe that a settings file names, if it names one."""
    return checked_provenance(read_provenance(path), path).get("recipe")
