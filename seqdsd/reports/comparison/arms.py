"""Runs that can be compared: equal in all but method and seed, sorted into arms.

A comparison's arms have the same epochs in all: baseline and LLR of as many rounds as DSDSD; DSD, of one round, stands
beside them with fewer. Only complete runs are counted. Leaves out statistics (``contrasts``, ``pairs``) and tables
(``tables``).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from seqdsd.kinds import CORPORA, Kind, Metric, Number
from seqdsd.records.asked_seeds import AskedSeeds, looks_before, read_asked_seeds, still_to_come
from seqdsd.records.phases import SET_COUNTS
from seqdsd.reports.runs.reading import ArmName, Record, Refusal, Run

ARMS: tuple[ArmName, ...] = ("Baseline", "LLR", "DSD", "DSDSD")
"""In the order of tables."""

ANNEAL = "optimizer.anneal"
"""The baseline, one long phase, has its own."""

_BOOKKEEPING = (
    "seed",
    "method",
    "iters",
    "out",
    "device",
    "checkpoint_minutes",
    "on_bad_data",
    "batches.num_workers",
    "network.recompute_layers",
)
_ADDED_SINCE = (
    ("score_test", True),
    ("batches.open_shards", 8),
    ("accumulate", 1),
    ("optimizer.kind", "nesterov"),
    ("optimizer.curve", "constant"),
    ("optimizer.warmup", 0.0),
    ("tokenizer.alphabet", " 'abcdefghijklmnopqrstuvwxyz"),
    ("features.kind", "linear"),
    ("features.num_mels", 80),
    ("features.highest_hz", 8000.0),
    ("features.normalise", "bin"),
    ("network.last_fc", True),
    ("network.recurrent_norm", True),
    ("network.directions", "summed"),
    ("network.blank_bias", 0.0),
    ("augment.stretch", 0.0),
    ("augment.pitch_semitones", 0.0),
    ("restored_start", "zero"),
)
"""Settings that older folders do not have, with what these did."""
OF_PRUNING = ("sparsities", "restored_start")
"""Settings of no effect on runs that prune nothing."""

_EMBEDDED = "the embedded corpus"

SetSizes = tuple[tuple[str, str, int], ...]
"""Split, what is counted of it, and how many there are."""


@dataclass(frozen=True)
class ArmPhase:
    """A phase of an arm: its record by seed."""

    index: int
    name: str
    records: Mapping[int, Record]

    def scores(self, split: str, metric: Metric) -> dict[int, Number]:
        """The scores of the seeds that have one."""
        found = ((seed, metric.of(record, split)) for seed, record in self.records.items())
        return {seed: score for seed, score in found if score is not None}

    def values(self, key: str) -> list[Number]:
        """What the records of all seeds hold under a key."""
        return [record[key] for record in self.records.values()]


@dataclass(frozen=True)
class Arm:
    """The runs of one method by seed, ascending; unfinished ones take no part in anything."""

    name: ArmName
    runs: Mapping[int, Run]
    unfinished: Mapping[int, Run]

    @property
    def phases(self) -> tuple[ArmPhase, ...]:
        """The phases of the complete runs."""
        if not self.runs:
            return ()
        names = [record["name"] for record in next(iter(self.runs.values())).phases]
        return tuple(
            ArmPhase(index, name, {seed: run.phases[index] for seed, run in self.runs.items()})
            for index, name in enumerate(names)
        )

    def of_seeds(self, seeds: Iterable[int]) -> Arm:
        """The arm with the complete runs of these seeds alone."""
        return replace(self, runs={seed: self.runs[seed] for seed in sorted(seeds)})

    def phase_beside(self, other: Arm) -> int | None:
        """The phase at which the arm is set beside another: its last, or of LLR the one after as many as the other has.

        None where it has no such phase.
        """
        index = len(other.phases if self.name == "LLR" else self.phases) - 1
        return index if index < len(self.phases) else None

    def scores(self, split: str, metric: Metric, *, phase: int = -1) -> dict[int, Number]:
        """What a phase reaches, by seed: by default the last, whose network one gets."""
        return self.phases[phase].scores(split, metric) if self.runs else {}

    def epochs(self, *, phase: int = -1) -> tuple[int, ...]:
        """Epochs trained until the end of a phase, of each seed."""
        last = phase % max(1, len(self.phases))
        return tuple(sum(record["epochs"] for record in run.phases[: last + 1]) for run in self.runs.values())


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms that differ in method and seed only.

    Attributes:
        title: Network and corpus, and in what else it differs from others beside it.
        recipe: Of all its runs.
        network: Its name.
        corpus: Its name.
        kind: What is scored.
        iters: Rounds of its longest arm.
        settings: What its runs have in common; without the bookkeeping and ``optimizer.anneal``.
        baseline_anneal: ``optimizer.anneal`` of the baseline; None where there is none.
        anneal: That of the other arms.
        arms: Those that have a run, in the order of ``ARMS``.
        left_out: Second runs of the same arm and seed, and those scored on other sets than most are.
        asked: The seeds that ``seqdsd compare`` was asked for in its folders; empty where these do not say.
    """

    title: str
    recipe: str
    network: str
    corpus: str
    kind: Kind
    iters: int
    settings: Mapping[str, Any]
    baseline_anneal: Any
    anneal: Any
    arms: tuple[Arm, ...]
    left_out: tuple[Refusal, ...] = ()
    asked: tuple[AskedSeeds, ...] = ()

    def arm(self, name: ArmName) -> Arm | None:
        """The arm of that name that has a complete run."""
        return next((arm for arm in self.arms if arm.name == name and arm.runs), None)

    @property
    def told_apart_by(self) -> str:
        """What the title adds to network and corpus, a space before it; empty where these are enough."""
        return self.title.removeprefix(f"{self.network} on {self.corpus}")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the complete runs of any arm."""
        return tuple(sorted({seed for arm in self.arms for seed in arm.runs}))

    @property
    def looks(self) -> tuple[AskedSeeds, ...]:
        """Seeds that were added when a result of others could be looked at: what was tested so once more."""
        return looks_before(self.asked, self.seeds)

    @property
    def still_to_come(self) -> tuple[int, ...]:
        """Seeds that were asked for with those that are there, and of which no run is complete."""
        return still_to_come(self.asked, self.seeds)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, arm by arm, the unfinished ones after the complete ones."""
        return tuple(run for arm in self.arms for runs in (arm.runs, arm.unfinished) for run in runs.values())

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """Runs that do not count."""
        return tuple(run for arm in self.arms for run in arm.unfinished.values())

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Test sets of any run, in the order in which the records hold them."""
        return tuple(dict.fromkeys(split for run in self.runs for split in run.test_splits))

    @property
    def scored_splits(self) -> tuple[str, ...]:
        """The test sets; dev where test was not scored, as in a sweep."""
        return self.test_splits or ("dev",)

    @property
    def seconds(self) -> float:
        """Training and evaluation of all its phases, those that runs share counted once."""
        spent = {
            (run.seed, _origin(run, record), record["name"]): record
            for run in self.runs
            for record in run.phases
        }
        return math.fsum(
            record["train_seconds"] + record.get("evaluate_seconds", 0.0) for record in spent.values()
        )

    @property
    def is_single(self) -> bool:
        """Whether it is one run alone, with nothing to compare it to."""
        return len(self.runs) == 1


def compare_runs(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """Sort runs into comparisons; runs of the first dense phase alone, and compressions, are no arm.

    All settings of a comparison's runs agree but for seed, method, rounds and what changes no result (folder, device,
    checkpoints). The baseline may have its own ``optimizer.anneal``. Baselines and LLR runs are set beside the DSDSD
    runs of as many rounds, since these have as many epochs; DSD is set beside all of them. As they prune nothing, they
    stand beside runs of any sparsities.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.arm not in ("Dense", "Compressed"):
            groups.setdefault(_key(run), []).append(run)
    return _titled(
        [
            _comparison(members)
            for group in groups.values()
            for alike in _of_each_sparsity(group)
            for members in _divided(alike)
        ]
    )


def _key(run: Run) -> str:
    common = {name: value for name, value in common_settings(run).items() if name not in OF_PRUNING}
    return json.dumps([run.recipe, run.kind.name, common], sort_keys=True, default=str)


def common_settings(run: Run) -> dict[str, Any]:
    """The settings in which the runs of a comparison agree."""
    flat = {name: value for name, value in _flat(run.settings) if name not in (*_BOOKKEEPING, ANNEAL)}
    if isinstance(flat.get("data"), str):
        flat["data"] = os.path.normpath(flat["data"])
    if "start_weights" in flat:  # a run that is named there may have gone on since, to another best phase
        flat["start_weights"] = run.phases[0].get("given", {}).get("sha256", "")[:12]
    if "weights" in flat:
        flat["weights"] = run.provenance.get("start_weights", {}).get("sha256", "")[:12]
    # As in folders from before they could be set.
    return {name: value for name, value in flat.items() if (name, value) not in _ADDED_SINCE}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _of_each_sparsity(group: Sequence[Run]) -> Iterator[list[Run]]:
    """Divide runs by how much they prune and restore; those that prune nothing join each part."""
    pruning = _by(_of_pruning, [run for run in group if run.method == "dsd"])
    others = [run for run in group if run.method != "dsd"]
    used = {_of_pruning(part[0]) for part in pruning if part}
    for part in pruning:
        yield [*part, *(_joining(others, _of_pruning(part[0]), used) if part else others)]


def _joining(others: Sequence[Run], wanted: str, used: set[str]) -> list[Run]:
    """Of runs that prune nothing, those to set beside ``wanted`` sparsities.

    Where several compete for a place, the one of these sparsities has it; one of other sparsities stands beside its own
    where these are ``used``, so that it need not be named as left out here.
    """
    first: dict[tuple[Any, ...], str] = {}
    ranked = sorted(others, key=lambda run: (not run.is_complete, _of_pruning(run) != wanted))
    for run in ranked:
        first.setdefault(_place(run), _of_pruning(run))
    return [run for run in ranked if _of_pruning(run) == first[_place(run)] or _of_pruning(run) not in used]


def _place(run: Run) -> tuple[Any, ...]:
    return run.arm, run.seed, run.iters, str(annealing(run))


def _of_pruning(run: Run) -> str:
    known = dict(_ADDED_SINCE)
    return str([run.settings.get(name, known.get(name)) for name in OF_PRUNING])


def _divided(group: Sequence[Run]) -> Iterator[list[Run]]:
    """Divide runs of the same settings by rounds and annealing; each part has one of each in an arm."""
    lengths = sorted({run.iters for run in group if run.arm != "DSD"}) or [1]
    for length in lengths:
        members = [run for run in group if run.arm == "DSD" or run.iters == length]
        baselines = _by(annealing, [run for run in members if run.arm == "Baseline"])
        others = _by(annealing, [run for run in members if run.arm != "Baseline"])
        yield from ([*one, *other] for one, other in product(baselines, others))


def annealing(run: Run) -> Any:
    """What a run's learning rate is divided by after every epoch."""
    return dict(_flat(run.settings)).get(ANNEAL)


def _by(key: Callable[[Run], Any], runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by a key, in the order found; one empty list of none."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(key(run)), []).append(run)
    return list(groups.values()) or [[]]


def _comparison(runs: Sequence[Run]) -> Comparison:
    alike, of_other_sets = of_one_set(runs)
    kept, twins = _without_twins(alike)
    first = next((run for run in kept if run.method == "dsd"), kept[0])
    network = first.kind.network_name(first.recipe, first.settings)
    corpus = corpus_name(first.settings.get("data"))
    baselines = [run for run in kept if run.arm == "Baseline"]
    others = [run for run in kept if run.arm != "Baseline"]
    return Comparison(
        title=f"{network} on {corpus}",
        recipe=first.recipe,
        network=network,
        corpus=corpus,
        kind=first.kind,
        iters=max(run.iters for run in kept),
        settings=common_settings(first),
        baseline_anneal=annealing(baselines[0]) if baselines else None,
        anneal=annealing(others[0]) if others else None,
        arms=tuple(_arm(name, own) for name in ARMS if (own := [run for run in kept if run.arm == name])),
        left_out=(*of_other_sets, *twins),
        asked=tuple(line for folder in _folders_above(kept) for line in read_asked_seeds(folder)),
    )


def _folders_above(runs: Sequence[Run]) -> list[Path]:
    """Those of the comparisons that runs lie in: two above, as in ``compare-ds1/seed-0/dsd``."""
    return list(dict.fromkeys(run.folder.path.resolve().parent.parent for run in runs))


def of_one_set(runs: Sequence[Run]) -> tuple[list[Run], tuple[Refusal, ...]]:
    """Keep complete runs that are scored on as much as most are; on a tie as the baseline is, else as the first."""
    complete = [run for run in runs if run.is_complete]
    if not complete:
        return list(runs), ()
    sizes = {run.folder.path: _set_sizes(run) for run in complete}
    counted = Counter(sizes.values())  # hundreds of runs have a handful of sizes
    alike = {
        one: sum(count for other, count in counted.items() if _other_set(one, other) is None)
        for one in counted
    }
    usual = max(complete, key=lambda run: alike[sizes[run.folder.path]])
    told = {
        path: problem for path, one in sizes.items() if (problem := _other_set(one, sizes[usual.folder.path]))
    }
    left_out = tuple(
        Refusal(
            path,
            f"{path}: {problem} as {usual.folder.path}, so its scores do not compare; train it again on the "
            "same data, or report it by itself",
        )
        for path, problem in told.items()
    )
    return [run for run in runs if run.folder.path not in told], left_out


def _set_sizes(run: Run) -> SetSizes:
    """How much the run's last phase is scored on."""
    last = run.phases[-1]
    return tuple(
        (split, key, size)
        for split in ("dev", *run.test_splits)
        for key in SET_COUNTS
        if (size := last.get(split, {}).get(key)) is not None
    )


def _other_set(found: SetSizes, usual: SetSizes) -> str | None:
    """Where two runs are scored on sets of other sizes."""
    expected = {(split, key): size for split, key, size in usual}
    for split, key, size in found:
        if (other := expected.get((split, key), size)) != size:
            return f"{split} has {size} {key.replace('ref_', '')}, not {other}"
    return None


def _without_twins(runs: Sequence[Run]) -> tuple[list[Run], tuple[Refusal, ...]]:
    """Keep one run of each arm and seed: the first that is complete."""
    kept: dict[tuple[str, int], Run] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: not run.is_complete):
        first = kept.setdefault((run.arm, run.seed), run)
        if first is not run:
            left_out.append(
                Refusal(
                    run.folder.path,
                    f"{run.folder.path}: {run.arm} with seed {run.seed} a second time, after {first.folder.path}; "
                    "report one of them",
                )
            )
    return list(kept.values()), tuple(left_out)


def _arm(name: ArmName, runs: Iterable[Run]) -> Arm:
    by_seed = {run.seed: run for run in sorted(runs, key=lambda run: run.seed)}
    return Arm(
        name,
        runs={seed: run for seed, run in by_seed.items() if run.is_complete},
        unfinished={seed: run for seed, run in by_seed.items() if not run.is_complete},
    )


def _origin(run: Run, record: Record) -> str:
    """The folder of the run that trained a phase: where it lies now, or by its name where it is gone.

    First beside the run, where the arms of a comparison lie: of one that was moved or copied, these are meant.
    """
    path = Path(record.get("taken_over_from", run.folder.path))
    places = (run.folder.path.parent / path.name, path)
    return next((str(place.resolve()) for place in places if place.is_dir()), path.name)


def corpus_name(data: Any) -> str:
    """The corpus that a setting names: a folder, or a file ``dataset_NAME.json``."""
    if not isinstance(data, str):
        return _EMBEDDED
    name = Path(data).name.removesuffix(".gz").removesuffix(".json").removeprefix("dataset_")
    return CORPORA.get(name, name)


def _titled(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Add to equal titles as many settings as it takes to tell the comparisons apart."""
    return tuple(
        replace(one, title=f"{one.title} ({', '.join(telling)})") if telling else one
        for one in comparisons
        for telling in [_telling(one, [other for other in comparisons if other.title == one.title])]
    )


def _telling(one: Comparison, alike: Sequence[Comparison]) -> list[str]:
    described = [_described(other) for other in alike]
    chosen: list[str] = []
    for name in dict.fromkeys(name for settings in described for name in settings):
        if _num_told_apart(described, [*chosen, name]) > _num_told_apart(described, chosen):
            chosen.append(name)
    mine = _described(one)
    return [f"{name} {_said(mine.get(name))}" for name in chosen]


def _num_told_apart(described: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    return len({json.dumps([settings.get(name) for name in names], default=str) for settings in described})


def _described(comparison: Comparison) -> dict[str, Any]:
    return {
        **comparison.settings,
        "iters": comparison.iters,
        "the baseline's anneal": comparison.baseline_anneal,
        "anneal": comparison.anneal,
    }


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
