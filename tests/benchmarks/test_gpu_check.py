"""The GPU check's table, its failures, and its cheap parts on the CPU."""

import json
import time

import torch
from torch import nn

from benchmarks import gpu_check
from benchmarks.gpu_check import Check, Outcome, Row, Settings, markdown, run_apart, run_here
from benchmarks.gpu_check_parts import CudnnRecogniser, mask_rows, num_parameters, of_as_many_parameters


def test_the_table_has_a_row_a_finding():
    outcomes = {
        "one": Outcome([Row("a", "1 | 2"), Row("b", "two\nlines", passed=False)], 12.4),
        "other": Outcome([Row("c", "fine")], 0.2),
    }
    assert markdown(outcomes, title="Here").splitlines() == [
        *("Here", "", "| check | result | time | pass/fail |", "|---|---|--:|---|"),
        *("| a | 1 / 2 | 12 s | pass |", "| b | two lines |  | **fail** |", "| c | fine | 0 s | pass |"),
    ]


def test_a_check_that_fails_keeps_what_it_found(tmp_path):
    def fails(settings, work):
        yield Row("first", "found")
        raise RuntimeError("many lines\nand the last")

    rows = run_here("it", Settings(), tmp_path, {"it": Check(1, fails)})
    assert rows == [Row("first", "found"), Row("it", "RuntimeError: and the last", passed=False)]


def test_a_failing_check_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    """The captioner cannot be trained of data that are not there; a check after it is run."""
    monkeypatch.setitem(gpu_check.CHECKS, "late", Check(60, lambda settings, work: []))

    def apart(name, settings, work, limit):
        return Outcome(run_here(name, settings, work) or [Row(name, "done")], 1.0)

    monkeypatch.setattr(gpu_check, "run_apart", apart)
    monkeypatch.setattr(gpu_check, "call", lambda arguments: 1 / 0)
    settings = Settings(device="cpu", out=tmp_path / "table.md", only=("bleu", "late"))
    assert not gpu_check.run_all(settings, tmp_path)
    table = settings.out.read_text()
    assert "| bleu | ZeroDivisionError: division by zero | 1 s | **fail** |" in table
    assert "| late | done | 1 s | pass |" in table and table in capsys.readouterr().out


def test_a_check_that_takes_too_long_is_killed(tmp_path):
    started = time.monotonic()
    [row] = run_apart("resume", Settings(device="cpu"), tmp_path, 1.0).rows
    assert row == Row("resume", "not done within 1 s; its last line: no output", passed=False)
    assert time.monotonic() - started < 10 and not (tmp_path / "unbroken" / "phases.jsonl").exists()


def test_a_check_of_its_own_process_gives_its_rows(tmp_path):
    """There is no such check, which is what its row says."""
    [row] = run_apart("none-of-them", Settings(device="cpu"), tmp_path, 60.0).rows
    assert row == Row("none-of-them", "KeyError: 'none-of-them'", passed=False)


def test_scores_are_found_wherever_they_are():
    said = json.loads('{"sets": [{"name": "x", "metrics": {"characters": {}, "wer": 0.25}}]}')
    assert gpu_check._find(said, "wer") == 0.25


def test_rivals_have_as_many_parameters():
    def build(units):
        return CudnnRecogniser("LSTM", units, layers=2)

    rival = of_as_many_parameters(build, 300_000)
    assert abs(num_parameters(rival) / 300_000 - 1) < 0.03
    log_probs, frames = rival(torch.randn(2, 20, 161), torch.tensor([13, 20]))
    assert log_probs.shape == (2, 10, 29) and frames.tolist() == [7, 10]
    assert isinstance(rival.rnn, nn.LSTM)


def test_masks_on_the_cpu():
    rows = list(mask_rows("cpu", units=32))
    assert all(passed for _, _, passed in rows)
    assert rows[-1][:2] == ("masks: weights that are 0", "0.5000")
