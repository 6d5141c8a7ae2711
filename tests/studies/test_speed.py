"""How fast one epoch is, of a recipe that only sleeps: a real process that knows a recipe's flags."""

import json
from pathlib import Path

import pytest

from seqdsd.records import RunFolder, read_json_lines
from seqdsd.sparsity import Schedule
from seqdsd.studies.jobs import Job, JobsFailed, Share
from seqdsd.studies.speed import Speed, measure_speed

SLEEPER = """
import argparse, json, pathlib, time
parser = argparse.ArgumentParser()
for name in ("--config", "--method", "--iters", "--epochs", "--seed", "--out"):
    parser.add_argument(name, required=True)
parser.add_argument("--no-score-test", action="store_true", required=True)
asked = parser.parse_args()
assert (asked.method, asked.iters, asked.epochs) == ("dsd", "0", "1")
settings = pathlib.Path(asked.config)
with (settings.parent / "calls.jsonl").open("a") as file:
    started = time.monotonic()
    time.sleep(float(settings.read_text()))
    file.write(json.dumps({"seed": asked.seed, "started": started, "ended": time.monotonic()}) + "\\n")
out = pathlib.Path(asked.out)
out.mkdir(parents=True)
[record] = json.loads(settings.with_name("records.json").read_text())
record |= {"train_seconds": 300.0 + int(asked.seed), "evaluate_seconds": 2.0}
(out / "phases.jsonl").write_text(json.dumps(record) + "\\n")
"""


@pytest.fixture
def settings(tmp_path, monkeypatch, phase_records):
    """Of a recipe that sleeps as long as they say, called ``sleeper``."""
    records = phase_records(Schedule.dsd(0, 1))
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "settings.toml"
    path.write_text("0.5")
    return path


def test_as_many_are_measured_at_once_as_will_run(settings, tmp_path):
    speed = measure_speed("sleeper", settings, share=Share(2, 1), folder=tmp_path / "thrown-away")
    calls = sorted(read_json_lines(tmp_path / "calls.jsonl"), key=lambda row: row["seed"])
    assert [call["seed"] for call in calls] == ["0", "1"]
    assert max(call["started"] for call in calls) < min(call["ended"] for call in calls)
    # The slower one counts; of the two evaluations one is the epoch's own.
    assert speed.epoch_seconds == 301.0 + 2.0 / 2
    assert speed.start_seconds == 0  # less than it says it trained


def test_the_start_is_what_is_not_the_epoch(settings, tmp_path, monkeypatch):
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(SLEEPER.replace("300.0 + int(asked.seed)", "0.01").replace("2.0", "0.02"))
    speed = measure_speed("sleeper", settings, share=Share(1, 1), folder=tmp_path / "thrown-away")
    assert speed.epoch_seconds == pytest.approx(0.02)
    assert 0.48 < speed.start_seconds < 30


def test_a_recipe_that_cannot_be_trained_says_why(tmp_path, settings):
    settings.write_text("no number")
    with pytest.raises(JobsFailed, match="could not convert string to float: 'no number'"):
        measure_speed("sleeper", settings, share=Share(1, 1), folder=tmp_path / "thrown-away")


def test_what_a_job_still_takes(tmp_path):
    speed = Speed(start_seconds=10.0, epoch_seconds=3.0)
    job = Job("a", (), RunFolder(tmp_path), epochs=5)
    assert speed.seconds(job) == 25
    progress = {"phase": "Dense Iter 0", "epochs_timed": 6, "seconds": 18.0, "dev": "WER 25.00"}
    job.folder.write_progress({**progress, "epochs_done": 6, "epochs_planned": 8})
    assert speed.seconds(job) == 16
    assert speed.seconds(Job("a", (), RunFolder(Path("nowhere")), epochs=5, is_done=True)) == 0
