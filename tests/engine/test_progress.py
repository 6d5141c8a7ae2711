import io

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from seqdsd.engine import Evaluation
from seqdsd.engine.progress import RunDisplay, TensorBoardLog


def show(is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
    with RunDisplay.open(console, total_steps=20, done_steps=5) as display:
        display.step(6, phase="Dense Iter 0", epoch="1/2", loss=float("nan"), dev="")
        display.step(7, phase="Sparse Iter 1", epoch="2/2", loss=1.25, dev="WER 12.34 %")
        display.say("[bold]a line[/bold] that stays")
    return console.file.getvalue()


def test_without_a_terminal_there_are_lines_alone():
    assert show(is_terminal=False) == "a line that stays\n"


def test_a_terminal_shows_phase_epoch_steps_and_loss():
    shown = show(is_terminal=True)
    for part in ("Sparse Iter 1", "7/20", "epoch 2/2", "loss 1.25", "dev WER 12.34 %", "a line"):
        assert part in shown
    assert "nan" not in shown


def evaluation(wer: float) -> Evaluation:
    rows = [{"id": f"u{i}", "ref": "yes", "hyp": "no"} for i in range(9)]
    return Evaluation(2.0, wer, f"WER {wer}", {"wer": wer, "hits": 3, "signature": "x"}, rows)


@pytest.fixture
def events(tmp_path):
    def read():
        accumulator = EventAccumulator(str(tmp_path))
        accumulator.Reload()
        return accumulator

    return read


def test_scalars_histograms_and_transcripts(tmp_path, events):
    log = TensorBoardLog(tmp_path, first_epoch=0)
    for epoch, wer in enumerate((0.5, 0.25), start=1):
        log.epoch(epoch, train_loss=3.0 / epoch, learning_rate=0.1, dev=evaluation(wer))
    model = torch.compile(nn.Linear(2, 2), backend="eager")
    log.phase(2, "Dense Iter 0", model, {"dev": evaluation(0.25), "test": evaluation(0.3)})
    log.close()
    read = events()
    assert [(one.step, one.value) for one in read.Scalars("dev/wer")] == [(1, 0.5), (2, 0.25)]
    assert [one.value for one in read.Scalars("train/loss")] == [3.0, 1.5]
    assert [one.value for one in read.Scalars("phase_end/test/wer")] == [pytest.approx(0.3)]
    assert {"weights/weight", "weights/bias"} <= set(read.Tags()["histograms"])
    text = read.Tensors("test/Dense Iter 0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("| yes | no |") == 5 and "hits" not in text


def test_entries_that_a_killed_run_has_left_are_purged(tmp_path, events):
    log = TensorBoardLog(tmp_path, first_epoch=0)
    for epoch in (1, 2, 3):
        log.epoch(epoch, train_loss=9.0, learning_rate=0.1, dev=evaluation(0.9))
    log.close()
    again = TensorBoardLog(tmp_path, first_epoch=2)
    again.epoch(2, train_loss=1.0, learning_rate=0.1, dev=evaluation(0.1))
    again.close()
    assert [(one.step, one.value) for one in events().Scalars("train/loss")] == [(1, 9.0), (2, 1.0)]


def test_bfloat16_weights_have_histograms(tmp_path, events):
    log = TensorBoardLog(tmp_path, first_epoch=0)
    log.phase(1, "x", nn.Linear(2, 2, dtype=torch.bfloat16), {})
    log.close()
    assert "weights/weight" in events().Tags()["histograms"]
