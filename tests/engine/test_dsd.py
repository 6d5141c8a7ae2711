import math
import os
import signal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from seqdsd.engine import (
    AdamWSettings,
    AdaptiveSettings,
    Checkpoint,
    CheckpointError,
    NesterovSettings,
    StopRequested,
    TrainingDiverged,
    TrainSettings,
    load_checkpoint,
    save_checkpoint,
)
from seqdsd.records import RunFolder, read_json_lines
from seqdsd.sparsity import Phase, Rule, Schedule

STEPS = [(epoch, index) for epoch in range(6) for index in range(3)]  # of the fixture's 3 phases of 2 epochs


class Killed(BaseException):
    """As good as SIGKILL, at a chosen place: nothing of ours catches it."""


def weights(folder, phase):
    return load_checkpoint(folder / "checkpoints" / f"{phase}.safetensors").tensors


def assert_same_run(one, other):
    """All weights handed on, and all records but for the seconds."""
    for phase in ("dense-iter-0", "sparse-iter-1", "dense-iter-1"):
        mine, theirs = weights(one, phase), weights(other, phase)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), f"{phase}: {name}"
    assert without_seconds(RunFolder(one).read_phases()) == without_seconds(RunFolder(other).read_phases())
    rows = [list(read_json_lines(RunFolder(folder).weight_statistics)) for folder in (one, other)]
    assert without_seconds(rows[0]) == without_seconds(rows[1])
    hyps = [sorted((folder / "hyps").iterdir()) for folder in (one, other)]
    assert [path.read_text() for path in hyps[0]] == [path.read_text() for path in hyps[1]]


def without_seconds(records):
    return [
        {name: value for name, value in record.items() if not name.endswith("seconds")} for record in records
    ]


@pytest.fixture
def unbroken(start, make_task, tmp_path):
    """The folder of a run that nothing has disturbed."""
    start(make_task(), "unbroken")
    return tmp_path / "unbroken"


def test_records_say_what_was_done(start, make_task, tmp_path):
    records = start(make_task())
    assert RunFolder(tmp_path / "run").read_phases() == records
    expected = [("Dense Iter 0", "dense", 0.05, 0.0), ("Sparse Iter 1", "sparse", 0.02, 0.5)]
    expected += [("Dense Iter 1", "redense", 0.01, 0.0)]
    assert [(r["name"], r["kind"], r["learning_rate"], r["sparsity"]) for r in records] == expected
    for index, record in enumerate(records):
        assert record["index"] == index and record["epochs"] == record["epochs_planned"] == 2
        for key in ("train_loss", "dev_loss", "dev_score"):
            assert len(record[key]) == 2 and all(map(math.isfinite, record[key]))
        assert set(record["dev"]) == set(record["test"]) == {"error"}
        assert record["train_seconds"] >= 0 and record["skipped"] == record["nonfinite_steps"] == 0
        best = min(range(2), key=record["dev_score"].__getitem__)
        assert record["best_epoch"] == best + 1 and record["dev"]["error"] == record["dev_score"][best]
    assert [record["measured_sparsity"] for record in records] == [0.0, 0.5, 0.0]


def test_the_sparse_phase_hands_on_exact_zeros(start, make_task, tmp_path):
    start(make_task(), schedule=Schedule.dsd(1, 2, (0.3,), (0.05, 0.02, 0.01)))
    for name, numel in (("0.weight", 96), ("4.weight", 16)):
        assert int((weights(tmp_path / "run", "sparse-iter-1")[name] == 0).sum()) == round(0.3 * numel)
        assert int((weights(tmp_path / "run", "dense-iter-1")[name] == 0).sum()) == 0


def test_the_weights_are_looked_at_at_five_moments(start, make_task, tmp_path):
    records = start(make_task(), schedule=Schedule.dsd(2, 1, (0.5,), (0.05, 0.02, 0.01)))
    folder = RunFolder(tmp_path / "run")
    rows = list(read_json_lines(folder.weight_statistics))
    moments = ["before pruning", "after pruning", "after sparse retraining"]
    moments += ["after restoring", "after redense retraining"]
    assert [(row["round"], row["moment"]) for row in rows] == [(i, name) for i in (1, 2) for name in moments]
    assert [row["phase"] for row in rows[:5]] == ["Sparse Iter 1"] * 3 + ["Dense Iter 1"] * 2
    assert {layer["name"] for row in rows for layer in row["layers"]} == {"0.weight", "4.weight"}
    zeros = [row["layers"][0]["zeros"] for row in rows]
    assert (
        zeros[1:4] == [48] * 3 and zeros[6:9] == [24] * 3 and zeros[4] < 48
    )  # 96 weights: a half, a quarter
    redense = weights(tmp_path / "run", "dense-iter-1")["0.weight"]
    assert rows[4]["layers"][0]["mean_abs"] == pytest.approx(float(redense.abs().mean()), rel=1e-5)
    before = rows[5]["layers"][0]  # the second round begins with what the first handed on
    assert before["mean_abs"] == rows[4]["layers"][0]["mean_abs"]
    spent = [sum(row["seconds"] for row in rows if row["phase"] == record["name"]) for record in records]
    assert [record["statistics_seconds"] for record in records] == pytest.approx(spent)


@pytest.mark.parametrize("kind", ["nesterov", "adam"])
def test_stopped_before_the_first_step_of_a_phase_no_moment_is_taken_twice(start, make_task, tmp_path, kind):
    """Adam holds nothing before its first step, so a checkpoint there looks like one between two phases."""
    optimizer = AdaptiveSettings("adam") if kind == "adam" else NesterovSettings(momentum=0.9)
    start(make_task(), "unbroken", optimizer=optimizer)
    for epoch in (2, 4):
        task, folder = make_task(), RunFolder(tmp_path / f"broken{epoch}")

        def fail(at, index, batch, epoch=epoch):
            if at == epoch:
                raise ValueError("bad data")

        task.at_step = fail
        with pytest.raises(ValueError, match="bad data"):
            start(task, folder.path.name, optimizer=optimizer)
        start(make_task(), folder.path.name, optimizer=optimizer)
        assert_same_run(folder.path, tmp_path / "unbroken")


def test_a_checkpoint_from_before_weight_statistics_goes_on(start, make_task, tmp_path):
    task = make_task()
    stop_at(task, (3, 1))  # in the sparse phase
    with pytest.raises(StopRequested):
        start(task)
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    checkpoint = load_checkpoint(path)
    del checkpoint.state["weight_rows"], checkpoint.state["now"]["evaluate_seconds"]
    for record in checkpoint.state["records"]:
        del record["evaluate_seconds"], record["statistics_seconds"]
    save_checkpoint(path, checkpoint)
    assert len(start(make_task())) == 3
    assert not RunFolder(tmp_path / "run").weight_statistics.is_file()


def test_the_plan_says_what_each_phase_prunes(start, make_task, tmp_path):
    rules = [Rule("4.*", 0, why="the output"), Rule("*")]
    start(make_task(), schedule=Schedule.dsd(2, 1, (0.5,), (0.05, 0.02, 0.01)), rules=rules)
    rows = {row["parameter"]: row for row in read_json_lines(RunFolder(tmp_path / "run").plan)}
    assert rows["0.weight"]["sparsity_by_phase"] == {"Sparse Iter 1": 0.5, "Sparse Iter 2": 0.25}
    assert rows["0.weight"]["rule"] == "*" and rows["0.weight"]["count"] == 96
    assert rows["4.weight"]["sparsity_by_phase"] == {"Sparse Iter 1": 0.0, "Sparse Iter 2": 0.0}
    assert (rows["4.weight"]["rule"], rows["4.weight"]["why"]) == ("4.*", "the output")


def test_without_score_test_the_test_sets_are_never_seen(start, make_task, tmp_path):
    task, seen = make_task(), set()
    task.at_evaluation = seen.add
    records = start(task, score_test=False)
    assert seen == {"dev"} and all("dev" in record and "test" not in record for record in records)
    assert not list((tmp_path / "run" / "hyps").glob("*.test.jsonl"))


def test_a_phase_starts_from_the_best_weights_of_the_one_before(start, make_task, tmp_path):
    task = make_task(scores=[5, 4, 6, 7, 3, 3.5, 1, 2])
    seen = {}
    task.at_step = lambda epoch, index, batch: seen.setdefault(epoch, task.model[0].weight.detach().clone())
    records = start(task, schedule=Schedule.dsd(1, (4, 2, 2), (0.5,), (0.05, 0.02, 0.01)))
    assert [record["best_epoch"] for record in records] == [2, 1, 1]
    assert [record["dev"]["error"] for record in records] == [4, 3, 1]
    handed_on = weights(tmp_path / "run", "dense-iter-0")["0.weight"]
    # Epoch 4 is the sparse phase's first: half of the weights are gone, the others are the handed-on ones.
    kept = seen[4] != 0
    assert int(kept.sum()) == 48 and torch.equal(seen[4][kept], handed_on[kept])
    assert handed_on[~kept].abs().max() <= handed_on[kept].abs().min()
    assert torch.equal(seen[6], weights(tmp_path / "run", "sparse-iter-1")["0.weight"])
    assert torch.equal(seen[2], handed_on) and not torch.equal(seen[3], handed_on)


@pytest.mark.parametrize(
    ("patience", "scores", "epochs", "best"),
    [
        (2, [5, 4, 6, 7, 1], 4, 2),
        (1, [5, 4, 4.5, 1], 3, 2),
        (3, [5, 6, 7, 4, 5, 6, 7], 7, 4),
        (2, [1, 2, 3], 3, 1),
        (0, [1, *range(2, 9)], 8, 1),
        (9, list(range(8)), 8, 1),
    ],
)
def test_a_phase_ends_when_patience_does(start, make_task, patience, scores, epochs, best):
    schedule = Schedule((Phase("Dense Iter 0", "dense", 8, 0.05),))
    [record] = start(make_task(scores=scores), schedule=schedule, patience=patience)
    assert (record["epochs"], record["best_epoch"], record["epochs_planned"]) == (epochs, best, 8)
    assert record["dev_score"] == scores[:epochs]


def test_of_equal_scores_the_lower_loss_is_better(start, make_task):
    [record] = start(
        make_task(scores=[1] * 5), schedule=Schedule((Phase("D", "dense", 5, 0.05),)), patience=0
    )
    assert record["best_epoch"] == 1 + record["dev_loss"].index(min(record["dev_loss"])) > 1


def test_a_loss_that_is_not_a_number_is_never_the_best(start, make_task):
    task = make_task(scores=[1, 1, 1])
    evaluate, losses = task.evaluate, iter([math.nan, math.inf, 2.0])

    def scripted(model, split, device):
        evaluation = evaluate(model, split, device)
        object.__setattr__(evaluation, "loss", next(losses, 2.0))
        return evaluation

    task.evaluate = scripted
    [record] = start(task, schedule=Schedule((Phase("D", "dense", 3, 0.05),)))
    assert record["best_epoch"] == 3


@pytest.fixture
def optimizers(monkeypatch):
    """Every optimizer that a run has made."""
    made = []
    make = NesterovSettings.make
    monkeypatch.setattr(NesterovSettings, "make", lambda *args: made.append(make(*args)) or made[-1])
    return made


def test_every_phase_has_a_fresh_optimizer_and_the_rate_is_annealed_within_it(start, make_task, optimizers):
    task, rates, momenta = make_task(), {}, {}

    def look(epoch, index, batch):
        rates[epoch] = optimizers[-1].param_groups[0]["lr"]
        state = optimizers[-1].state
        momenta[epoch, index] = max(float(entry["momentum_buffer"].abs().max()) for entry in state.values())

    task.at_step = look
    start(task, optimizer=NesterovSettings(momentum=0.9, anneal=2.0))
    assert list(rates.values()) == [0.05, 0.025, 0.02, 0.01, 0.01, 0.005] and len(optimizers) == 3
    assert [momentum == 0 for momentum in momenta.values()] == [True, *[False] * 5] * 3


@pytest.fixture
def adamw_rates(monkeypatch):
    """The rates of every step that AdamW makes, one list a phase."""
    found, make = [], AdamWSettings.make

    def make_observed(*args):
        optimizer, rates = make(*args), []
        found.append(rates)
        optimizer.register_step_pre_hook(
            lambda one, *_: rates.append({group["lr"] for group in one.param_groups})
        )
        return optimizer

    monkeypatch.setattr(AdamWSettings, "make", make_observed)
    return found


CYCLE = [0.04, 1.0, *(0.001 + 0.999 * (1 + math.cos(math.pi * share / 4)) / 2 for share in range(1, 5))]
"""Of its peak, the rate of each of a phase's six steps: a fifth of them, one, is warm-up."""


def test_each_phase_warms_up_and_falls_along_its_own_cosine(start, make_task, tmp_path, adamw_rates):
    start(make_task(), optimizer=AdamWSettings())
    for rates, peak in zip(adamw_rates, (0.05, 0.02, 0.01), strict=True):
        assert [rate for (rate,) in rates] == pytest.approx([peak * share for share in CYCLE])
    shown = EventAccumulator(str(tmp_path / "run" / "tb")).Reload().Scalars("train/learning_rate")
    by_epoch = [peak * CYCLE[step] for peak in (0.05, 0.02, 0.01) for step in (2, 5)]
    assert [one.value for one in shown] == pytest.approx(by_epoch)


def test_a_resumed_cosine_has_the_rates_that_it_would_have_had(start, make_task, adamw_rates):
    start(make_task(), "unbroken", optimizer=AdamWSettings())
    unbroken = [*adamw_rates]
    adamw_rates.clear()
    task = make_task()
    stop_at(task, (2, 1))  # its second step is made
    with pytest.raises(StopRequested):
        start(task, optimizer=AdamWSettings())
    start(make_task(), optimizer=AdamWSettings())
    first, sparse, rest, redense = adamw_rates
    assert (len(sparse), len(rest)) == (2, 4) and [first, sparse + rest, redense] == unbroken


def test_adamw_s_weight_decay_revives_no_pruned_weight(start, make_task):
    task, seen, signs = make_task(), {}, []

    def look(epoch, index, batch):
        seen[epoch, index] = task.model[0].weight == 0
        signs.append(torch.signbit(task.model[0].weight[seen[epoch, index]]).any())

    task.at_step = look
    start(task, optimizer=AdamWSettings(weight_decay=5.0))
    pruned = seen[2, 0]
    assert int(pruned.sum()) == 48 and all(torch.equal(seen[step], pruned) for step in STEPS[6:12])
    assert not any(signs)  # +0.0, not -0.0
    assert int(seen[STEPS[-1]].sum()) < 5


def test_pruned_weights_stay_zero_at_every_step_and_move_again_after(start, make_task):
    task, zeros = make_task(), {}

    def count(epoch, index, batch):
        zeros[epoch, index] = int((task.model[0].weight == 0).sum())

    task.at_step = count
    start(task)
    assert [zeros[step] for step in STEPS[6:12]] == [48] * 6
    # The first redense batch sees them at 0; what feeds a pruned output weight moves only after that one.
    assert zeros[4, 0] == 48 and all(zeros[step] < 5 for step in STEPS[14:])


def stop_at(task, step):
    def at_step(epoch, index, batch):
        if (epoch, index) == step:
            signal.raise_signal(signal.SIGINT)

    task.at_step = at_step


WITHIN_A_PHASE = {
    "annealed": NesterovSettings(momentum=0.9, anneal=1.5),
    "cosine": AdamWSettings(weight_decay=0.5),
}
"""Optimizers that, restored, must not forget where their rate stands."""


@pytest.mark.parametrize("optimizer", WITHIN_A_PHASE.values(), ids=WITHIN_A_PHASE)
def test_stopped_after_any_step_it_ends_with_the_same_bits(start, make_task, tmp_path, optimizer):
    start(make_task(), "unbroken", optimizer=optimizer)
    for number, step in enumerate(STEPS):
        task = make_task()
        stop_at(task, step)
        with pytest.raises(StopRequested, match=rf"--resume --config .*run{number}/config\.toml"):
            start(task, f"run{number}", optimizer=optimizer)
        assert task.steps[-1] == step
        again = make_task()
        start(again, f"run{number}", optimizer=optimizer)
        assert again.steps == STEPS[number + 1 :]  # nothing twice, nothing left out
        assert_same_run(tmp_path / f"run{number}", tmp_path / "unbroken")


@pytest.mark.parametrize("optimizer", WITHIN_A_PHASE.values(), ids=WITHIN_A_PHASE)
def test_killed_in_any_step_it_ends_with_the_same_bits(start, make_task, tmp_path, optimizer):
    """With a checkpoint after every step, nothing but the step that was under way is done again."""
    start(make_task(), "unbroken", optimizer=optimizer)
    for number, killed_in in enumerate(STEPS):

        def die(epoch, index, batch, killed_in=killed_in):
            if (epoch, index) == killed_in:
                raise Killed

        task = make_task()
        task.at_step = die
        with pytest.raises(Killed):
            start(task, f"run{number}", checkpoint_minutes=0.0, optimizer=optimizer)
        again = make_task()
        start(again, f"run{number}", checkpoint_minutes=0.0, optimizer=optimizer)
        assert again.steps == STEPS[number:]
        assert_same_run(tmp_path / f"run{number}", tmp_path / "unbroken")


def test_killed_at_any_rename_it_ends_with_the_same_bits(start, make_task, tmp_path, unbroken, monkeypatch):
    """Every file takes its name by a rename, so these are all the places where files can disagree."""
    number, replace = 0, os.replace
    while True:
        left = [None] * number

        def rename(*paths, left=left):
            if not left:
                raise Killed
            left.pop()
            replace(*paths)

        monkeypatch.setattr(os, "replace", rename)
        try:
            start(make_task(), f"run{number}")
            break
        except Killed:
            monkeypatch.setattr(os, "replace", replace)
        start(make_task(), f"run{number}")
        assert_same_run(tmp_path / f"run{number}", unbroken)
        number += 1
    assert number > 3 * 6  # a phase end: two hypotheses, weights, a checkpoint of two or three, records


def test_the_masks_in_the_checkpoint_are_what_counts(start, make_task, tmp_path):
    """They are not guessed from the weights: here is a mask that the weights do not show."""
    task = make_task()
    stop_at(task, (2, 1))
    with pytest.raises(StopRequested):
        start(task)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    checkpoint = load_checkpoint(last)
    turned = 255 - checkpoint.tensors["mask/0.weight"]  # 96 weights are 12 whole bytes
    save_checkpoint(last, Checkpoint({**checkpoint.tensors, "mask/0.weight": turned}, checkpoint.state))
    start(make_task())
    kept = torch.from_numpy(np.unpackbits(turned.numpy())).bool().view(16, 6)
    sparse = weights(tmp_path / "run", "sparse-iter-1")["0.weight"]
    assert not sparse[~kept].any() and (sparse[kept] != 0).any()


def test_tensorboard_has_every_epoch_and_phase_once_after_a_resume(start, make_task, tmp_path):
    for stop in ((2, 1), (4, 0)):  # the second in the first epoch of a phase
        task = make_task()
        stop_at(task, stop)
        with pytest.raises(StopRequested):
            start(task)
    start(make_task())
    events = EventAccumulator(str(tmp_path / "run" / "tb"))
    events.Reload()
    assert [one.step for one in events.Scalars("train/loss")] == [0, 1, 2, 3, 4, 5]
    assert [one.step for one in events.Scalars("phase_end/test/error")] == [1, 3, 5]


def test_a_complete_run_returns_at_once(start, make_task, unbroken):
    task = make_task()
    task.at_step = task.at_evaluation = lambda *_: pytest.fail("it trains or evaluates again")
    assert start(task, "unbroken") == RunFolder(unbroken).read_phases()


def test_phases_jsonl_is_mended_from_the_checkpoint(start, make_task, unbroken):
    before = RunFolder(unbroken).read_phases()
    (unbroken / "phases.jsonl").write_text("{")
    start(make_task(), "unbroken")
    assert RunFolder(unbroken).read_phases() == before


def test_a_checkpoint_of_another_schedule_or_network_is_refused(start, make_task, unbroken):
    with pytest.raises(
        ValueError, match="unbroken/checkpoints/last.safetensors: belongs to another schedule"
    ):
        start(make_task(), "unbroken", schedule=Schedule.dsd(2, 2))
    other = make_task()
    other.model[4] = nn.Linear(16, 2)
    with pytest.raises(ValueError, match="unbroken/checkpoints/last.safetensors: another network's"):
        start(other, "unbroken")


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(start, make_task, tmp_path, unbroken, caplog):
    task = make_task()
    stop_at(task, (3, 1))
    with pytest.raises(StopRequested):
        start(task, checkpoint_minutes=0.0)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-5])
    start(make_task(), checkpoint_minutes=0.0)
    assert f"{last}: damaged checkpoint" in caplog.text
    assert_same_run(tmp_path / "run", unbroken)
    for path in last.parent.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable checkpoint is left"):
        start(make_task())


def handed_on(folder, whole):
    """What a phase has handed on, under the name of the run's own checkpoint."""
    return load_checkpoint(RunFolder(folder).weights("Dense Iter 0"))


def without(part):
    """The run's own checkpoint, all but a part."""

    def changed(folder, whole):
        tensors = {name: one for name, one in whole.tensors.items() if name != part}
        assert len(tensors) == len(whole.tensors) - (part not in whole.state)
        return Checkpoint(tensors, {name: one for name, one in whole.state.items() if name != part})

    return changed


def of_state(**changes):
    return lambda folder, whole: Checkpoint(whole.tensors, {**whole.state, **changes})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (handed_on, "not a checkpoint that a run can go on from (Object missing required field `phases`)"),
        (without("now"), "missing required field `now`"),
        (of_state(now=[]), "Expected `object`, got `array` - at `$.now`"),
        (of_state(now={"epoch": 3}), "its epochs do not agree"),
        (of_state(records=[{}]), "records:1: object missing required field `name`"),
        (of_state(fingerprint=None), "Expected `str`, got `null` - at `$.fingerprint`"),
        (without("model/0.weight"), "another network's"),
        (without("best/0.weight"), "another network's: of the best weights, '0.weight' is missing"),
        (
            lambda folder, whole: Checkpoint(
                {**whole.tensors, "optimizer/0/momentum_buffer": torch.ones(7)}, whole.state
            ),
            "another network's: the optimizer's '0/momentum_buffer' fits no parameter",
        ),
    ],
)
def test_what_is_no_checkpoint_of_the_run_gives_way_to_the_one_before(
    start, make_task, tmp_path, unbroken, caplog, make, problem
):
    task = make_task()
    stop_at(task, (3, 1))  # in the second epoch of a phase, which has best weights by then
    with pytest.raises(StopRequested):
        start(task, checkpoint_minutes=0.0)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    save_checkpoint(last, make(tmp_path / "run", load_checkpoint(last)))
    start(make_task(), checkpoint_minutes=0.0)
    assert (
        f"{last}: " in caplog.text
        and problem in caplog.text
        and "previous.safetensors instead" in caplog.text
    )
    assert_same_run(tmp_path / "run", unbroken)


def test_a_checkpoint_of_other_settings_is_refused(start, make_task):
    noted = {"hidden_size": 16, "colour": "red"}
    start(make_task(), noted=noted)
    with pytest.raises(CheckpointError, match=r"trained with other settings \(colour: 'red' -> 'blue'\)"):
        start(make_task(), noted={**noted, "colour": "blue"})
    assert start(make_task(), noted={**noted, "added_since": 3})


def test_bad_data_stops_with_a_checkpoint_wherever_it_turns_up(start, make_task, tmp_path, unbroken):
    """In a training batch, in the dev set after an epoch, and in a test set at the phase's end."""

    def fail(*_):
        raise ValueError("train.jsonl:3: broken")

    for number, place in enumerate(["batch", "dev", "test"]):
        task = make_task()
        if place == "batch":
            task.at_step = lambda epoch, index, batch: fail() if (epoch, index) == (3, 1) else None
        else:
            task.at_evaluation = lambda split, place=place, task=task: (
                fail() if split == place and task.steps[-1][0] == 3 else None
            )
        with pytest.raises(ValueError, match="broken"):
            start(task, f"run{number}")
        mended = make_task()
        start(mended, f"run{number}")
        assert mended.steps == STEPS[STEPS.index((3, 1)) if place == "batch" else 12 :]
        assert_same_run(tmp_path / f"run{number}", unbroken)


def test_single_bad_steps_are_counted(start, make_task):
    task = make_task()
    task.at_step = lambda epoch, index, batch: (
        batch.numbers.fill_(math.nan) if (epoch, index) in STEPS[2:5] else None
    )
    records = start(task)
    assert [record["nonfinite_steps"] for record in records] == [3, 0, 0]
    assert all(math.isfinite(loss) for record in records for loss in record["train_loss"])


def test_ten_bad_steps_in_a_row_stop_the_run_with_its_last_good_weights(start, make_task, tmp_path):
    task, good = make_task(), {}
    task.num_batches = 12

    def spoil(epoch, index, batch):
        if (epoch, index) == (1, 1):
            good.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})
        if (epoch, index) >= (1, 1):
            batch.numbers[0] = math.inf

    task.at_step = spoil
    schedule = Schedule((Phase("Dense Iter 0", "dense", 9, 0.05),))
    with pytest.raises(TrainingDiverged, match="10 steps in a row"):
        start(task, schedule=schedule)
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors").under("model")
    assert good.keys() == kept.keys() and all(torch.equal(kept[name], good[name]) for name in good)
    task.at_step = lambda *_: None  # the data mended
    [record] = start(task, schedule=schedule)
    assert record["nonfinite_steps"] >= 10 and record["epochs"] == 9


def test_an_epoch_without_one_good_step_stops_the_run_and_is_begun_again(start, make_task, tmp_path):
    """However few steps it has; in the sparse phase here."""
    task = make_task()
    task.at_step = lambda epoch, index, batch: batch.numbers.fill_(math.nan) if epoch == 2 else None
    for _ in range(2):
        with pytest.raises(
            TrainingDiverged,
            match=r"not one of the 3 steps of Sparse Iter 1's epoch 1.*lower the learning rate",
        ):
            start(task)
    start(make_task(), "unbroken")
    records = start(make_task())
    assert [record["nonfinite_steps"] for record in records] == [0, 6, 0]
    for phase in ("sparse-iter-1", "dense-iter-1"):
        mine, theirs = (weights(tmp_path / name, phase) for name in ("run", "unbroken"))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_each_of_two_sparse_phases_chooses_its_masks_afresh(start, make_task, tmp_path):
    schedule = Schedule(
        (
            Phase("Dense", "dense", 2, 0.05),
            Phase("Quarter", "sparse", 2, 0.02, 0.25),
            Phase("Half", "sparse", 2, 0.02, 0.5),
            Phase("Redense", "redense", 2, 0.01),
        )
    )
    records = start(make_task(), "unbroken", schedule=schedule)
    assert [record["measured_sparsity"] for record in records] == [0, 0.25, 0.5, 0]
    rows = list(read_json_lines(RunFolder(tmp_path / "unbroken").weight_statistics))
    assert [row["round"] for row in rows] == [1] * 3 + [2] * 5
    for number, step in enumerate(STEPS[6:]):  # whichever of the two phases it was stopped in
        task = make_task()
        stop_at(task, step)
        with pytest.raises(StopRequested):
            start(task, f"run{number}", schedule=schedule)
        start(make_task(), f"run{number}", schedule=schedule)
        for phase in ("quarter", "half", "redense"):
            mine, theirs = (weights(tmp_path / name, phase) for name in (f"run{number}", "unbroken"))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_tied_weights_are_saved_once_and_restored_under_all_their_names(start, make_task, tmp_path):
    def tied():
        task = make_task()
        torch.manual_seed(0)
        task.model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 1))
        task.model[2].weight = task.model[0].weight
        return task

    start(tied(), "unbroken")
    task = tied()
    stop_at(task, (3, 1))
    with pytest.raises(StopRequested):
        start(task)
    start(tied())
    for phase in ("dense-iter-0", "sparse-iter-1", "dense-iter-1"):
        mine, theirs = (weights(tmp_path / name, phase) for name in ("run", "unbroken"))
        assert set(mine) == set(theirs) == set(tied().model.state_dict())
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert torch.equal(mine["0.weight"], mine["2.weight"])
    assert int((weights(tmp_path / "run", "sparse-iter-1")["0.weight"] == 0).sum()) == 18


def test_a_score_that_is_not_a_number_is_never_better(start, make_task):
    for scores, best in (([math.nan, 3, 2], 3), ([math.nan, math.inf, math.nan], 2), ([4, math.nan, 5], 1)):
        [record] = start(
            make_task(scores=scores), f"best{best}", schedule=Schedule((Phase("D", "dense", 3, 0.05),))
        )
        assert record["best_epoch"] == best


def test_what_was_skipped_is_not_forgotten_on_resume(start, make_task, tmp_path):
    task = make_task()
    task.skipped["train.jsonl:3"] = "train.jsonl:3: broken"
    stop_at(task, (1, 0))
    with pytest.raises(StopRequested):
        start(task)
    records = start(make_task())
    assert [record["skipped"] for record in records] == [1, 1, 1]
    listed = (tmp_path / "run" / "skipped.jsonl").read_text()
    assert listed == '{"source": "train.jsonl:3", "message": "train.jsonl:3: broken"}\n'


def test_a_rule_that_fits_nothing_is_refused_before_anything_is_written(start, make_task, tmp_path):
    task = make_task()
    with pytest.raises(ValueError, match="matches no parameter"):
        start(task, rules=[Rule("fc.*")])
    assert not task.steps and not (tmp_path / "run").exists()


def test_a_run_without_pruning_has_nothing_sparse(start, make_task, tmp_path):
    records = start(make_task(), schedule=Schedule.dsd(1, 2).lower_learning_rate_only(), rules=[Rule("fc.*")])
    assert [record["measured_sparsity"] for record in records] == [0, 0, 0]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("llr*")]


@pytest.mark.parametrize(("field", "value"), [("patience", -1), ("checkpoint_minutes", -1.0)])
def test_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field} must not be negative, got {value}"):
        TrainSettings(NesterovSettings(), **{field: value})


def test_other_data_on_resume_is_said(start, make_task, caplog):
    task = make_task()
    stop_at(task, (1, 0))
    with pytest.raises(StopRequested):
        start(task)
    again = make_task()
    again.fingerprint = "other numbers"
    start(again)
    assert "training data has changed" in caplog.text


def test_a_phase_with_nothing_to_learn_from_is_an_error(start, make_task):
    task = make_task()
    task.batches = lambda epoch, *, first: iter(())
    with pytest.raises(ValueError, match="not one training item can be read"):
        start(task)
