"""What is remarked and undone, held against every training curve that is recorded below ``recipes/``."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from seqdsd.engine import Evaluation, Note
from seqdsd.engine.run_state import PhaseProgress, RunState
from seqdsd.engine.watch import Losses, has_diverged, remarks
from seqdsd.records import RunFolder
from seqdsd.sparsity import Phase

RECORDED = sorted(path.parent for path in Path("recipes").rglob("phases.jsonl"))
UNTRAINED = Losses(56.0, 50.0)


def evaluation(loss: float, score: float = 1.0, notes: tuple[Note, ...] = ()) -> Evaluation:
    return Evaluation(loss, score, "", {}, [], notes)


def watched(folder: Path) -> tuple[list[tuple[str, int, str]], list[str]]:
    """What the engine would have remarked, and the epochs that it would have undone."""
    state, said, undone = RunState(), [], []
    weights = {"weight": torch.zeros(1)}
    for record in RunFolder(folder).read_phases():
        phase = Phase(*(record[key] for key in ("name", "kind", "epochs", "learning_rate", "sparsity")))
        curves = (record[name] for name in ("train_loss", "dev_loss", "dev_score"))
        state.best = weights
        for train, dev_loss, score in zip(*curves, strict=True):
            dev = evaluation(dev_loss, score)
            state.meter.sum, state.meter.steps = train, 1
            if state.has_diverged(phase, dev):
                undone.append(f"{phase.name} {state.now.epoch + 1}")
            is_best = state.finish_epoch(dev)
            said += [(phase.name, one.epoch, one.kind) for one in state.remark(phase, dev, is_best=is_best)]
        state.finish_phase(record)
    return said, undone


def test_of_all_recorded_runs_the_one_that_lost_its_way_is_remarked():
    """AN4's baseline of seed 2: dev losses 44, 44, 37, 65, 73, 27 (docs/experiments.md, 2026-11-26)."""
    assert len(RECORDED) > 40
    found = {folder: watched(folder) for folder in RECORDED}
    assert not any(undone for _, undone in found.values())
    remarked = {str(folder): said for folder, (said, _) in found.items() if said}
    lost = "recipes/an4/records/compare-ds1/seed-2/baseline"
    assert remarked == {lost: [("Baseline", 5, "dev loss parts from training")]}


@pytest.mark.parametrize(
    ("now", "is_lost"),
    [
        ((57, 49), True),  # back where it began
        ((480, 510), True),
        ((33, 73), False),  # AN4's seed 2: dev alone
        ((60, 25), False),
        ((41, 35), False),
        ((60, math.nan), True),
        ((60, math.inf), True),
    ],
)
def test_lost_is_what_both_losses_are_far_above(now, is_lost):
    assert has_diverged(Losses(*now), good=Losses(30, 26), first=UNTRAINED) is is_lost


def test_of_a_training_loss_that_has_risen_by_less_it_is_not_said_that_it_has_not():
    """Less than what a remark of its own takes, which after a first loss of a thousand is much."""
    [note] = remarks(Losses(280.0, 37.0), lowest=Losses(2.0, 5.0), first=Losses(1137.0, 46.6), is_best=False)
    assert "the training loss by less (from 2 to 280)" in note.text
    [note] = remarks(Losses(6.0, 19.0), lowest=Losses(2.0, 5.0), first=Losses(27.0, 30.0), is_best=False)
    assert "from 5 to 19 an item, the training loss by less (from 2 to 6)" in note.text
    [note] = remarks(Losses(1.9, 19.0), lowest=Losses(2.0, 5.0), first=Losses(27.0, 30.0), is_best=False)
    assert "the training loss has not (1.9)" in note.text


def test_losses_near_zero_may_double():
    """A corpus of tones, learned by heart, under a rate that rises again."""
    good, now = Losses(0.02, 0.05), Losses(0.1, 0.3)
    assert not has_diverged(now, good=good, first=UNTRAINED)
    assert not remarks(now, lowest=good, first=UNTRAINED, is_best=False)
    assert has_diverged(now, good=good, first=None)  # where nothing is known of the untrained network


@pytest.mark.parametrize("never", [math.nan, math.inf])
@pytest.mark.parametrize("first", [UNTRAINED, None])
def test_a_loss_that_never_was_finite_is_no_measure(never, first):
    """Nothing is undone for the other one alone."""
    now, good = Losses(500, never), Losses(9, never)
    assert not has_diverged(now, good=good, first=first)
    lowest = Losses(9, math.inf)  # as the engine has it where there is none
    assert not remarks(Losses(9, never), lowest=lowest, first=first, is_best=False)


@pytest.mark.parametrize(
    ("now", "is_best", "kind"),
    [
        ((41, 28), False, "loss rises"),
        ((35, 28), False, None),
        ((29, 43), False, "dev loss parts from training"),
        ((29, math.nan), False, "dev loss parts from training"),
        ((29, 43), True, None),  # words come right all the same
        ((29, 35), False, None),
    ],
)
def test_remarks(now, is_best, kind):
    notes = remarks(Losses(*now), lowest=Losses(30, 26), first=UNTRAINED, is_best=is_best)
    assert [note.kind for note in notes] == ([kind] if kind else [])
    assert all("ry " in note.text and note.epochs == 2 for note in notes)  # what to try


def remarked(epochs: list[str], *, planned: int, after: int, share: float = 0.0) -> list[int]:
    """Epochs after which a note is shown, of those (``x``) whose evaluation has it."""
    now, phase, shown = PhaseProgress(), Phase("Dense Iter 0", "dense", planned, 0.1), []
    for epoch in epochs:
        notes = [Note("no word right", "text", epochs=after, share=share)] if epoch == "x" else []
        now.note_epoch(1.0, evaluation(1.0))
        shown += [one.epoch for one in now.note_remarks(notes, phase)]
    return shown


def test_a_note_is_shown_once_and_not_before_its_epochs():
    assert remarked(list("xxxxx"), planned=9, after=3) == [3]
    assert remarked(list("xx-xx-xxx-xxx"), planned=20, after=3) == [9]
    assert remarked(list("xx"), planned=2, after=3) == [2]  # no more come
    assert remarked(list("-x"), planned=2, after=3) == []
    assert Counter(remarked(list("-xx-x"), planned=9, after=1)) == {2: 1}


def test_a_note_is_not_shown_before_its_share_of_the_phase():
    """43 epochs, the words come in the fourth: AN4 with nothing set."""
    assert [Note("", "", epochs=3, share=1 / 3).epochs_of(planned) for planned in (43, 9, 6, 2)] == [
        15,
        3,
        3,
        2,
    ]
    assert remarked(list("xxx--"), planned=43, after=3, share=1 / 3) == []
    assert remarked(list("xxx--"), planned=43, after=3) == [3]
    assert remarked(["x"] * 20, planned=43, after=3, share=1 / 3) == [15]


def test_of_a_phase_s_first_epoch_the_phase_before_is_the_measure_but_not_of_a_pruned_one():
    record = {
        "kind": "dense",
        "best_epoch": 2,
        "train_loss": [56.0, None, 9.0],
        "dev_loss": [50.0, 12.0, 8.0],
    }
    state = RunState(records=[{**record, "best_epoch": 3}], best={"weight": torch.zeros(1)})
    state.meter.sum, state.meter.steps = 50.0, 1
    dev = evaluation(48.0)
    assert state.has_diverged(Phase("Dense Iter 1", "redense", 3, 0.1), dev)
    assert not state.has_diverged(Phase("Sparse Iter 1", "sparse", 3, 0.1, 0.5), dev)
    del state.records[0]["dev_loss"]  # as versions before wrote them
    assert not state.has_diverged(Phase("Dense Iter 1", "redense", 3, 0.1), dev)
