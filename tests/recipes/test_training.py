"""What every recipe's run shares, on a task that is no recipe's: a line through a few points."""

import io
import os
import shutil
import tomllib
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from rich.console import Console
from torch import nn

from seqdsd.config import read_config, to_toml
from seqdsd.engine import (
    AdamWSettings,
    AdaptiveSettings,
    CheckpointError,
    Evaluation,
    NesterovSettings,
    OutOfMemory,
    StopRequested,
    has_checkpoint,
    load_latest,
    make_fabric,
)
from seqdsd.recipes.training import (
    RunConfig,
    check_memory,
    describe_training,
    find_parent,
    finished_phases,
    holds_run,
    train,
)
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.sparsity import Rule

QUIET = Console(quiet=True)
SCORES = {"wer": 1.0, "substitutions": 1, "deletions": 0, "insertions": 0, "ref_words": 1}


@dataclass(frozen=True)
class PartSettings:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A recipe's settings: its own defaults, and something of its own."""

    out: Path = Path("runs/lines")
    iters: int = 1
    epochs: tuple[int, ...] = (2, 1, 1)
    hidden_size: int = 4
    learning_rates: tuple[float, ...] = (0.1, 0.05, 0.01)
    sparsities: tuple[float, ...] = (0.5,)
    colour: Literal["red", "blue"] = "red"
    part: PartSettings = field(default_factory=PartSettings)


@dataclass(frozen=True)
class Points:
    ids: tuple[str, ...]
    numbers: torch.Tensor

    def to(self, device):
        return replace(self, numbers=self.numbers.to(device))

    def __len__(self):
        return len(self.ids)


class LineTask:
    """Four numbers to their sum; the dev score never becomes better than in the first epoch."""

    test_splits = ("test",)
    fingerprint = "points"
    num_batches = 2

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        self.skipped = {}
        self.stop_at = None

    def batches(self, epoch, *, first):
        for index in range(first, self.num_batches):
            if (epoch, index) == self.stop_at:
                raise StopRequested
            generator = torch.Generator().manual_seed(10 * epoch + index)
            yield [Points(("a", "b"), torch.randn(2, 4, generator=generator))]

    def largest_batch(self):
        return [Points(("a", "b"), torch.ones(2, 4))]

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch.numbers)[:, 0], batch.numbers.sum(1))

    def evaluate(self, model, split, device):
        return Evaluation(1.0, 1.0, "score 1", SCORES, [{"id": "a", "ref": "1", "hyp": "2"}])


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(out=tmp_path / "run", device="cpu", seed=3)


@pytest.fixture
def folder(config) -> RunFolder:
    return RunFolder(config.out)


def start(config, *, task=None, optimizer=None, saved=None):
    task, folder = task or LineTask(), RunFolder(config.out)

    def save_parts(path):
        assert path == config.out and path.is_dir() and not folder.config.exists()
        (saved if saved is not None else []).append(path)
        return {"made_of": "numbers"}

    optimizer = optimizer or AdaptiveSettings(kind="adam")
    return train(
        task,
        config,
        recipe="lines",
        rules=[Rule("*")],
        optimizer=optimizer,
        fabric=make_fabric(config.device, config.precision),
        folder=folder,
        console=QUIET,
        save_parts=save_parts,
        may_change=("out",),
    )


def test_a_run_is_trained_and_recorded(config, folder):
    records = start(config)
    assert [(one["name"], one["learning_rate"]) for one in records] == [
        ("Dense Iter 0", 0.1),
        ("Sparse Iter 1", 0.05),
        ("Dense Iter 1", 0.01),
    ]
    assert records == folder.read_phases() == finished_phases(folder, config)
    assert read_config(folder.config, Config()) == config
    provenance = tomllib.loads(folder.config.read_text())["provenance"]
    assert provenance["recipe"] == "lines" and provenance["seed"] == 3
    assert provenance["threads"] == torch.get_num_threads()
    assert provenance["device_used"] == "cpu"


def test_parts_are_saved_once_and_before_the_settings(config, folder):
    """Where there are settings there is a run, and all that it needs."""
    saved, task = [], LineTask()
    task.stop_at = (1, 1)
    with pytest.raises(StopRequested):
        start(config, task=task, saved=saved)
    before = folder.config.read_bytes()
    assert finished_phases(folder, config) is None
    task.stop_at = None
    assert len(start(config, task=task, saved=saved)) == 3
    assert saved == [config.out] and folder.config.read_bytes() == before


def test_parts_that_cannot_be_saved_leave_no_run(config, folder):
    def fail(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        train(
            LineTask(),
            config,
            recipe="lines",
            rules=[Rule("*")],
            optimizer=NesterovSettings(),
            folder=folder,
            fabric=make_fabric(config.device, config.precision),
            console=QUIET,
            save_parts=fail,
            may_change=("out",),
        )
    assert not holds_run(folder, config, resume=False, may_change=())
    assert len(start(config)) == 3


def test_a_batch_too_large_is_told_what_helps_and_the_folder_is_free_for_it(config, folder):
    """By a real lack of memory; nothing was trained, so other settings may be tried there."""
    task = LineTask()
    task.loss = lambda model, batch: torch.empty(2**48).sum()
    with pytest.raises(OutOfMemory, match="does not fit into memory.*--accumulate 4.*--precision bf16-mixed"):
        start(config, task=task)
    assert not has_checkpoint(folder.checkpoints)
    assert len(start(replace(config, accumulate=2))) == 3


@pytest.mark.parametrize("left", ["checkpoints", "phases.jsonl"])
def test_parts_of_a_run_without_its_settings_are_no_run_to_begin(config, folder, left):
    """The old weights would go on under settings that never trained them."""
    start(config)
    folder.config.unlink()
    if left == "phases.jsonl":
        shutil.rmtree(folder.checkpoints)
    else:
        folder.phases.unlink()
    for resume in (False, True):
        with pytest.raises(
            RunFolderError, match=rf"config.toml: missing, but there is {left}.* bring the file"
        ):
            holds_run(folder, config, resume=resume, may_change=("out",))


def test_phases_without_a_checkpoint_are_not_trained_again_in_silence(config, folder, caplog):
    task = LineTask()
    task.stop_at = (3, 0)
    with pytest.raises(StopRequested):
        start(config, task=task)
    assert holds_run(folder, config, resume=True, may_change=("out",))
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(
        RunFolderError, match=r"2 of 3 phases are recorded, but there is neither checkpoints/last"
    ):
        holds_run(folder, config, resume=True, may_change=("out",))
    folder.phases.unlink()
    assert holds_run(folder, config, resume=True, may_change=("out",))
    assert len(start(config)) == 3
    assert "no checkpoint to go on from: the run begins with its first phase" in caplog.text
    shutil.rmtree(folder.checkpoints)  # of a complete run it is not needed
    assert holds_run(folder, config, resume=True, may_change=("out",))


def test_checkpoints_carry_the_settings(config, folder):
    """But for those that may change."""
    start(config)
    settings = load_latest(folder.checkpoints).state["settings"]
    assert settings["part.size"] == 1 and settings["colour"] == "red" and "out" not in settings
    folder.config.write_text(to_toml(replace(config, colour="blue")))
    folder.phases.unlink()
    with pytest.raises(CheckpointError, match="other settings .colour: 'red' -> 'blue'"):
        start(replace(config, colour="blue"))


@pytest.mark.parametrize(("method", "epochs"), [("dsd", [3, 3, 3]), ("llr", [3, 3, 3]), ("baseline", [30])])
def test_patience_ends_every_phase_but_the_baseline_s(config, method, epochs):
    """Which is there to train as many epochs as all phases would."""
    records = start(replace(config, method=method, patience=2, epochs=(10,)))
    assert [one["epochs"] for one in records] == epochs


@pytest.mark.parametrize("optimizer", [NesterovSettings(momentum=0.5), AdaptiveSettings()])
def test_the_optimizer_is_the_one_given(config, optimizer):
    made = []

    class Spy(type(optimizer)):
        def make(self, parameters, learning_rate):
            made.append(learning_rate)
            return super().make(parameters, learning_rate)

    start(config, optimizer=Spy(**vars(optimizer)))
    assert made == [0.1, 0.05, 0.01]


def test_a_second_run_in_a_folder_is_refused(config, folder):
    with folder.locked(), pytest.raises(RunFolderError, match="writing here already"):
        start(config)


def test_a_device_that_is_not_there_is_refused_first(config):
    with pytest.raises(ValueError, match="tpux"):
        start(replace(config, device="tpux"))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": -1}, "patience must not be negative, got -1"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes must not be negative, got -1.0"),
    ],
)
def test_settings_that_are_refused_leave_no_run_behind(config, changes, message):
    """It could neither be gone on with nor begun again."""
    with pytest.raises(ValueError, match=message):
        start(replace(config, **changes))
    assert not config.out.exists()


def test_a_rule_that_fits_nothing_is_refused_before_training(config, folder):
    with pytest.raises(ValueError, match="gru"):
        train(
            LineTask(),
            config,
            recipe="lines",
            rules=[Rule("gru.*")],
            optimizer=NesterovSettings(),
            folder=folder,
            fabric=make_fabric(config.device, config.precision),
            console=QUIET,
            save_parts=lambda path: {},
            may_change=("out",),
        )
    assert not folder.phases.exists()


# Whether there is a run, and whether it is the one asked for.


def test_no_folder_or_an_empty_one_holds_no_run(config, folder):
    for resume in (False, True):
        assert not holds_run(folder, config, resume=resume, may_change=())
    config.out.mkdir()
    assert not holds_run(folder, config, resume=True, may_change=())
    assert finished_phases(folder, config) is None


def test_a_run_is_gone_on_with_only_where_that_is_asked(config, folder):
    start(config)
    with pytest.raises(RunFolderError, match="there is a run already; go on with --resume or take another"):
        holds_run(folder, config, resume=False, may_change=())
    assert holds_run(folder, config, resume=True, may_change=())


def test_other_settings_are_named_unless_they_may_change(config, folder):
    start(config)
    changed = replace(config, colour="blue", part=PartSettings(2), data=Path("corpus"))
    with pytest.raises(RunFolderError) as error:
        holds_run(folder, changed, resume=True, may_change=())
    for expected in (
        "data: None -> corpus",
        "colour: red -> blue",
        "part.size: 1 -> 2",
        f"--config {folder.config}",
    ):
        assert expected in str(error.value)
    assert holds_run(folder, changed, resume=True, may_change=("data", "colour", "part.size"))
    with pytest.raises(RunFolderError, match=r"\(colour: red -> blue\)"):
        holds_run(folder, changed, resume=True, may_change=("data", "part.size"))


def test_the_device_used_is_no_setting(config, folder):
    """A run begun on a GPU goes on where that is asked, and its settings do not name the GPU."""
    start(config)
    text = folder.config.read_text()
    assert 'device_used = "cpu"' in text.partition("[provenance]")[2]
    folder.config.write_text(text.replace('device_used = "cpu"', 'device_used = "cuda:0 NVIDIA H100"'))
    assert holds_run(folder, config, resume=True, may_change=())
    assert read_config(folder.config, Config()) == config


def test_a_run_is_complete_with_all_its_phases(config, folder):
    records = start(config)
    assert finished_phases(folder, config) == records
    assert finished_phases(folder, replace(config, iters=2)) is None
    folder.write_phases(records[:2])
    assert finished_phases(folder, config) is None
    folder.write_phases([*records[:2], {}])
    with pytest.raises(RunFolderError, match=rf"{folder.phases}:3: object missing required field `name`"):
        finished_phases(folder, config)
    folder.write_phases(records)
    with pytest.raises(
        RunFolderError, match=rf"{folder.phases}:2: the settings in config.toml make 1 phases"
    ):
        finished_phases(folder, replace(config, iters=0))


# Whether phases may be taken over from a run.


def check(folder, config, *, recipe="lines", may_change=()):
    child = RunFolder(folder.path.parent / "child")
    assert find_parent(folder.path, child, config, recipe=recipe, may_change=may_change) == folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "out": Path("elsewhere"),
            "iters": 4,
            "epochs": (9,),
            "sparsities": (0.1,),
            "learning_rates": (1.0,),
        },
        {"method": "llr"},
    ],
)
def test_a_run_may_begin_with_one_that_differs_in_later_phases(config, folder, changes):
    """Which phases these are is for the phases to say, not for the settings."""
    start(config)
    check(folder, replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 4}, "(seed: 3 -> 4)"),
        ({"part": PartSettings(2)}, "(part.size: 1 -> 2)"),
        ({"patience": 0, "iters": 3}, "(patience: 10 -> 0)"),
        ({"score_test": False}, "(score_test: True -> False)"),
        ({"hidden_size": 5, "colour": "blue"}, "(hidden_size: 4 -> 5; colour: red -> blue)"),
    ],
)
def test_a_run_that_was_trained_otherwise_is_refused_by_name(config, folder, changes, expected):
    start(config)
    with pytest.raises(RunFolderError) as error:
        check(folder, replace(config, **changes))
    assert expected in str(error.value) and str(error.value).startswith(f"{folder.path}: ")
    assert str(error.value).endswith(f"give this run the same (such as by --config {folder.config})")


def test_settings_that_change_nothing_may_differ(config, folder):
    start(config)
    changed = replace(config, colour="blue", checkpoint_minutes=1.0)
    check(folder, changed, may_change=("colour", "checkpoint_minutes"))
    with pytest.raises(RunFolderError, match=r"\(checkpoint_minutes: 5\.0 -> 1\.0\)"):
        check(folder, changed, may_change=("colour",))


def test_phases_are_taken_over_until_training_has_begun(config, folder, tmp_path):
    """Settings alone are what a run leaves that was stopped, or refused, while it took over."""
    start(config)
    child = RunFolder(tmp_path / "child")
    child.path.mkdir()
    shutil.copy(folder.config, child.config)
    asked = {"recipe": "lines", "may_change": ()}
    assert find_parent(folder.path, child, config, **asked) == folder
    shutil.copytree(folder.checkpoints, child.checkpoints)
    assert find_parent(folder.path, child, config, **asked) is None
    assert find_parent(None, RunFolder(tmp_path / "other"), config, **asked) is None


def test_folders_of_another_version_are_refused(config, folder):
    start(config)
    text = folder.config.read_text()
    folder.config.write_text(text.replace("format = 1", "format = 2"))
    with pytest.raises(
        RunFolderError, match=r"from another version of seqdsd \(format 2, this one reads 1\)"
    ):
        holds_run(folder, config, resume=True, may_change=())
    with pytest.raises(RunFolderError, match="another version"):
        check(folder, config)
    folder.config.write_text(text.replace("format = 1\n", ""))  # from before it was written
    assert holds_run(folder, config, resume=True, may_change=())


def test_another_recipe_s_run_is_refused(config, folder):
    start(config)
    with pytest.raises(RunFolderError, match="a run of 'lines', from which 'circles' cannot start"):
        check(folder, config, recipe="circles")


def test_a_folder_without_a_run_is_refused(config, folder, tmp_path):
    for nothing in (RunFolder(tmp_path), RunFolder(tmp_path / "nowhere")):
        with pytest.raises(RunFolderError, match=f"{nothing.path}: no run to start from; --start-from takes"):
            check(nothing, config)


# Settings.


@pytest.mark.parametrize(
    ("method", "phases"),
    [
        ("dsd", [("Dense Iter 0", 2, 0), ("Sparse Iter 1", 1, 0.5), ("Dense Iter 1", 1, 0)]),
        ("llr", [("Dense Iter 0", 2, 0), ("LLR Phase 1", 1, 0), ("LLR Phase 2", 1, 0)]),
        ("baseline", [("Baseline", 4, 0)]),
    ],
)
def test_the_schedule_of_each_method(method, phases):
    schedule = Config(method=method).schedule
    assert [(one.name, one.epochs, one.sparsity) for one in schedule] == phases


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"iters": -1}, "iters must be at least 0, got -1"),
        ({"epochs": ()}, "epochs must not be empty"),
        ({"epochs": (0,)}, "epochs must be at least 1, got 0"),
        ({"sparsities": (1.0,)}, "sparsity"),
        ({"learning_rates": (0.0,)}, "learning_rate"),
        ({"learning_rates": (1e25,)}, "learning_rates must be at most 1000, got"),
        ({"hidden_size": 10**6}, "hidden_size must be at most 65536, got 1000000"),
        ({"seed": 2**64}, "seed must be below 2.63, got 18446744073709551616"),
        ({"iters": 10**9}, "iters must be at most 1000"),
        ({"epochs": (10**12,)}, "epochs must be at most 1000000"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_memory_is_pinned_only_for_a_gpu(monkeypatch):
    for has_gpu, device, expected in (
        (False, "auto", False),
        (True, "auto", True),
        (True, "cuda", True),
        (True, "cpu", False),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert Config(device=device).pins_memory == expected


def test_the_description_names_layers_phases_and_what_is_pruned(config):
    console = Console(file=io.StringIO(), width=100)
    rules = [Rule("1.*", 0, why="the last layer"), Rule("*", why="the rest")]
    describe_training(LineTask().model, replace(config, iters=2, epochs=(7,)), rules=rules, console=console)
    printed = console.file.getvalue()
    for line in ("0 15", "1 4", "total 19"):  # parameters of each layer
        assert any(
            line.split() == [w for w in row.split() if w not in "│┃|"] for row in printed.splitlines()
        ), line
    assert printed.count("prunes") == 2 and "the last layer" in printed and "Schedule (dsd)" in printed
    for expected in ("Sparse Iter 2", "25%", "50%", "0.05"):
        assert expected in printed


def test_the_baseline_s_description_prunes_nothing(config):
    console = Console(file=io.StringIO(), width=100)
    describe_training(
        LineTask().model, replace(config, method="baseline"), rules=[Rule("*")], console=console
    )
    assert "prunes" not in console.file.getvalue() and "Schedule (baseline)" in console.file.getvalue()


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power fails here


def test_a_network_that_the_machine_has_no_memory_for_is_refused_before_it_is_made():
    def make():
        return nn.Linear(2**30, 2**20)

    before = torch.get_rng_state()
    with pytest.raises(OutOfMemory, match=r"parameters takes [0-9,]+ GB to train.*smaller --hidden-size"):
        check_memory(make, Config(device="cpu"), optimizer=NesterovSettings())
    check_memory(lambda: nn.Linear(2, 2), Config(device="cpu"), optimizer=NesterovSettings())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_counts_with_its_gradients_best_weights_and_what_its_optimizer_keeps(monkeypatch):
    """By hand: of 1,000 weights of 4 bytes, 4 copies for Nesterov SGD and 5 for Adam."""
    for optimizer, least in (
        (NesterovSettings(), 16_000),
        (AdaptiveSettings(), 16_000),
        (AdamWSettings(), 20_000),
        (AdaptiveSettings(kind="adam"), 20_000),
    ):
        for there, fits in ((least, True), (least - 1, False)):
            monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": there, "SC_PAGE_SIZE": 1}.get)
            with nullcontext() if fits else pytest.raises(OutOfMemory, match="1,000 parameters"):
                check_memory(
                    lambda: nn.Linear(100, 10, bias=False), Config(device="cpu"), optimizer=optimizer
                )
