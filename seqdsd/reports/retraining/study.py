"""A study of retraining, read from its runs: which arms there are, from which parents, and which stand beside which.

An arm with pruning stands beside the one without (LLR) whose settings are otherwise its own. Leaves out statistics
(``contrasts``) and tables (``tables``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdsd.kinds import Kind, Metric, Number
from seqdsd.records.asked_seeds import AskedSeeds, looks_before, read_asked_seeds, still_to_come
from seqdsd.records.retraining import Place
from seqdsd.reports.comparison.arms import OF_PRUNING, annealing, common_settings, corpus_name, of_one_set
from seqdsd.reports.runs.reading import Refusal, Run

Scores = Mapping[int, Mapping[int, Number]]
"""By parent, then by repeat."""


@dataclass(frozen=True)
class StudyArm:
    """The complete retrainings of one arm.

    Attributes:
        name: As its runs' folders are called.
        runs: By parent, then by repeat; ascending.
        llr: Name of the arm without pruning that it stands beside; None of such an arm, and where there is none.
    """

    name: str
    runs: Mapping[int, Mapping[int, Run]]
    llr: str | None

    @property
    def first(self) -> Run:
        """One of its runs."""
        return next(run for repeats in self.runs.values() for run in repeats.values())

    @property
    def prunes(self) -> bool:
        """Whether it is DSD."""
        return self.first.method == "dsd"

    @property
    def epochs(self) -> tuple[int, ...]:
        """That its retrainings took."""
        return tuple(sum(record["epochs"] for record in run.phases[1:]) for run in self._all())

    def scores(self, split: str, metric: Metric, *, phase: int = -1) -> Scores:
        """What a phase reaches, by default the last; parents without a score are left out."""
        found = {
            parent: {
                repeat: score
                for repeat, run in repeats.items()
                if (score := metric.of(run.phases[phase], split)) is not None
            }
            for parent, repeats in self.runs.items()
        }
        return {parent: scores for parent, scores in found.items() if scores}

    @property
    def nearly_sparse(self) -> tuple[float, ...]:
        """Of the retrainings that are still nearly sparse at their end: mean |w| of restored weights, of the former."""
        ends = (run.phases[-1].get("restored") for run in self._all())
        return tuple(
            end["share"] for end in ends if end and end["is_nearly_sparse"] and end["share"] is not None
        )

    @property
    def seeds(self) -> frozenset[int]:
        """Of its retrainings, one a parent and repeat."""
        return frozenset(run.seed for run in self._all())

    @property
    def num_runs(self) -> int:
        """Of all parents."""
        return sum(map(len, self.runs.values()))

    def _all(self) -> Iterator[Run]:
        return (run for repeats in self.runs.values() for run in repeats.values())


@dataclass(frozen=True, eq=False)
class RetrainingStudy:
    """What ``seqdsd retrain`` has trained in a folder, as far as it is complete.

    Attributes:
        folder: Where it is.
        title: Network and corpus.
        kind: What is scored.
        arms: By name.
        runs: All retrainings, the unfinished too.
        unfinished: Those that do not count.
        left_out: Runs that cannot stand beside the others.
        asked: The seeds of retrainings that were asked for, one a parent and repeat; empty where the folder says none.
    """

    folder: Path
    title: str
    kind: Kind
    arms: Mapping[str, StudyArm]
    runs: tuple[tuple[Place, Run], ...]
    unfinished: tuple[Run, ...]
    left_out: tuple[Refusal, ...]
    asked: tuple[AskedSeeds, ...] = ()

    @property
    def looks(self) -> tuple[AskedSeeds, ...]:
        """Retrainings that were added when a result of others could be looked at: what was tested so once more."""
        return looks_before(self.asked, {run.seed for _, run in self.runs if run.is_complete})

    @property
    def still_to_come(self) -> Mapping[str, int]:
        """By arm, how many of the retrainings that were asked for are not complete; arms that have all are left out."""
        there = {seed for arm in self.arms.values() for seed in arm.seeds}
        known = {seed for one in self.asked for seed in one.seeds}
        wanted = {*still_to_come(self.asked, there), *(there & known)}
        missing = {arm.name: len(wanted - arm.seeds) for arm in self.arms.values()}
        return {name: count for name, count in missing.items() if count}

    @property
    def seeds_with_results(self) -> set[int]:
        """Of the parents and repeats of which two arms are complete: what a report compares."""
        counted = Counter(run.seed for _, run in self.runs if run.is_complete)
        return {seed for seed, num_arms in counted.items() if num_arms > 1}

    @property
    def parents(self) -> tuple[int, ...]:
        """Numbers of those that have a complete retraining."""
        return tuple(sorted({parent for arm in self.arms.values() for parent in arm.runs}))

    @property
    def num_repeats(self) -> tuple[int, ...]:
        """Of the parents in the arms, each number once."""
        return tuple(sorted({len(repeats) for arm in self.arms.values() for repeats in arm.runs.values()}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The test sets; dev where test was not scored."""
        found = dict.fromkeys(split for _, run in self.runs for split in run.test_splits)
        return tuple(found) or ("dev",)

    def pairs(self) -> list[tuple[StudyArm, StudyArm]]:
        """Each arm with pruning after the one without that it stands beside."""
        return [(self.arms[arm.llr], arm) for arm in self.arms.values() if arm.llr]


def is_shown(run: Run) -> bool:
    """Whether a report shows more of a run than its scores: of a study the first repeat of the first parent."""
    place = Place.of(run.folder.path)
    return place is None or place.is_example


def retraining_studies(runs: Sequence[Run]) -> tuple[tuple[RetrainingStudy, ...], tuple[Run, ...]]:
    """The studies among some runs, and the runs that are part of none."""
    studies: dict[Path, list[tuple[Place, Run]]] = {}
    others = []
    for run in runs:
        if (place := Place.of(run.folder.path)) is None:
            others.append(run)
        elif place.repeat is not None:
            studies.setdefault(place.study, []).append((place, run))
    return tuple(_study(folder, found) for folder, found in studies.items()), tuple(others)


def _study(folder: Path, placed: Sequence[tuple[Place, Run]]) -> RetrainingStudy:
    alike, of_other_sets = of_one_set([run for _, run in placed])
    of_other_parents = _of_other_parents([(place, run) for place, run in placed if run in alike])
    left_out = {refusal.path for refusal in (*of_other_sets, *of_other_parents)}
    kept = [(place, run) for place, run in placed if run.folder.path not in left_out]
    first = (kept or placed)[0][1]
    network = first.kind.network_name(first.recipe, first.settings)
    return RetrainingStudy(
        folder=folder,
        title=f"{network} on {corpus_name(first.settings.get('data'))}, retrained",
        kind=first.kind,
        arms=_arms([(place, run) for place, run in kept if run.is_complete]),
        runs=tuple(placed),
        unfinished=tuple(run for _, run in kept if not run.is_complete),
        left_out=(*of_other_sets, *of_other_parents),
        asked=read_asked_seeds(folder),
    )


def _of_other_parents(placed: Sequence[tuple[Place, Run]]) -> tuple[Refusal, ...]:
    """Runs that began with other weights than most in the folder of a parent did."""
    weights = [(place, run, _given(run)) for place, run in placed]
    usual = {
        parent: Counter(one for place, _, one in weights if place.parent == parent).most_common(1)[0][0]
        for parent in {place.parent for place, _ in placed}
    }
    return tuple(
        Refusal(
            run.folder.path,
            f"{run.folder.path}: began with other weights (sha256 {one[:12]}…) than the other retrainings of parent "
            f"{place.parent} ({usual[place.parent][:12]}…); train it again",
        )
        for place, run, one in weights
        if one != usual[place.parent]
    )


def _given(run: Run) -> str:
    return str(run.phases[0].get("given", {}).get("sha256", ""))


def _arms(placed: Sequence[tuple[Place, Run]]) -> dict[str, StudyArm]:
    found: dict[str, dict[int, dict[int, Run]]] = {}
    for place, run in sorted(placed, key=lambda one: (one[0].parent, one[0].repeat or 0)):
        found.setdefault(place.arm, {}).setdefault(place.parent, {})[place.repeat or 0] = run
    firsts = {name: next(iter(next(iter(parents.values())).values())) for name, parents in found.items()}
    without = {_ladder(run): name for name, run in firsts.items() if run.method == "llr"}
    return {
        name: StudyArm(
            name, parents, without.get(_ladder(firsts[name])) if firsts[name].method == "dsd" else None
        )
        for name, parents in sorted(found.items(), key=lambda one: _order(firsts[one[0]]))
    }


def _ladder(run: Run) -> str:
    """What an arm has in common with the one without pruning."""
    common = {
        name: value
        for name, value in common_settings(run).items()
        if name not in (*OF_PRUNING, "start_weights")
    }
    return repr((run.iters, annealing(run), sorted(common.items())))


def _order(run: Run) -> tuple[Any, ...]:
    """Arms of a ladder beside each other, that of the highest rates first; in each LLR first, then by sparsity."""
    rates = [-record["learning_rate"] for record in run.phases]
    return (rates, _ladder(run), run.method == "dsd", [record["sparsity"] for record in run.phases])
