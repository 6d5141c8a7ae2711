"""Trainings that are compressed alike: a real file and what it lost, grouped by all but the seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compressed_runs import (
    Config,
    Record,
    compress,
    from_command_line,
    group_of,
    name_of,
    table,
    trainings,
)

RECORD = Record(
    run="runs/compare/seed-0/dsd",
    group="dsd",
    seed=0,
    recipe="vision",
    network="LeNet-300-100",
    size_bytes=20_000,
    dense_bytes=1_000_000,
    before={"dev": 0.010, "test": 0.012},
    after={"dev": 0.011, "test": 0.014},
    settings="--bits 4",
    origin={},
)


def test_a_real_run_is_compressed_once_and_recorded(class_run, tmp_path):
    asked = "--sparsity 0.8 --bits 4 --steps 1 --epochs 1 --device cpu"
    config = from_command_line(["--runs", str(class_run.path), "--out", str(tmp_path), "--", *asked.split()])
    assert config.settings == asked and config.runs == (class_run.path,)
    record = compress(class_run.path, config)
    phases = {one["name"]: one for one in class_run.read_phases()}
    best = min(phases.values(), key=lambda one: min(one["dev_score"]))
    file = tmp_path / f"{class_run.path.name}.dsdz"
    assert record.size_bytes == file.stat().st_size < record.dense_bytes / 5
    assert record.before["dev"] == best["dev"]["top1_error"]
    assert record.seed == 0 and record.recipe == "vision"
    file.unlink()
    assert compress(class_run.path, config) == record
    assert not file.exists()
    assert record.phase == "best" and record.phase_name == best["name"]
    for other in (replace(config, settings="--bits 2"), replace(config, phase="last")):
        with pytest.raises(ValueError, match=r"best phase, with '--sparsity 0\.8 .*'; take another --out"):
            compress(class_run.path, other)


def test_a_runs_last_phase_is_compressed_where_that_is_asked(class_run, tmp_path):
    *_, last = class_run.read_phases()
    config = Config(
        out=tmp_path, runs=(class_run.path,), phase="last", settings="--layers *=0 --bits 4 --epochs 1"
    )
    record = compress(class_run.path, config)
    assert (record.phase, record.phase_name) == ("last", last["name"])
    assert record.before["dev"] == last["dev"]["top1_error"]


@pytest.mark.parametrize(
    "run,group,name",
    [
        ("dsd", "dsd", "dsd"),
        ("an4-ds1-e20-s2", "an4-ds1-e20", "an4-ds1-e20-s2"),
        ("ds1-seed-12", "ds1", "ds1-seed-12"),
        ("compare-ds1/seed-0/dsd", "compare-ds1/dsd", "compare-ds1-seed-0-dsd"),
        ("compare-ds1/seed-0/dsd-s50", "compare-ds1/dsd-s50", "compare-ds1-seed-0-dsd-s50"),
    ],
)
def test_runs_are_grouped_without_their_seeds(run, group, name):
    assert group_of(Path("runs") / run) == group
    assert name_of(Path("runs") / run) == name


def test_a_group_that_has_a_seed_twice_is_none():
    with pytest.raises(ValueError, match=r"dsd: seeds \[0, 0\], one of them twice"):
        table([RECORD, RECORD])


def test_trainings_without_a_test_set_have_rows():
    [*_, row] = table([replace(RECORD, before={"dev": 0.01}, after={"dev": 0.01})]).splitlines()
    assert row.endswith("| 1.00 | 1.00 | - | - | - | - |")


def test_the_table_has_a_row_a_group_with_what_was_lost(tmp_path):
    seeds = [RECORD, replace(RECORD, seed=1, size_bytes=25_000, after={"dev": 0.009, "test": 0.012})]
    rows = table([*seeds, replace(RECORD, group="llr")]).splitlines()
    assert len(rows) == 4
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert cells[:6] == ["dsd", "best", "`--bits 4`", "0, 1", "22,500", "45.0"]
    assert cells[6:] == ["1.00 ± 0.00", "1.00 ± 0.14", "1.20 ± 0.00", "1.30 ± 0.14", "0.10", "[-1.17, 1.37]"]
    assert rows[3].endswith("| 1.20 | 1.40 | 0.20 | - |")


def test_the_phase_is_not_given_by_name():
    with pytest.raises(ValueError, match="best or last, before the --"):
        from_command_line(["--runs", "a", "--out", "b", "--", "--phase", "Dense Iter 1"])


def test_what_is_no_training_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="empty: neither a training's folder nor one of several"):
        trainings([tmp_path / "empty"])
