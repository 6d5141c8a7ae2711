"""The faster precision, measured."""

import pytest
import torch

from seqdsd.engine import make_fabric, precision
from seqdsd.engine.device import precision_of
from seqdsd.engine.precision import MeasuredPrecision, measure_precision

CPU = torch.device("cpu")


def test_it_is_measured_here_and_leaves_torchs_generators_alone():
    before = torch.get_rng_state()
    found = measure_precision(CPU)
    assert found.speedup > 0 and torch.equal(torch.get_rng_state(), before)
    assert found.precision == ("bf16-mixed" if found.speedup >= precision.WORTH else "32-true")
    assert str(found).startswith(f"precision {found.precision}: bfloat16 products are ")


@pytest.mark.parametrize(("half", "chosen"), [(0.4, "bf16-mixed"), (0.6, "32-true"), (4.0, "32-true")])
def test_bfloat16_has_to_be_worth_it(monkeypatch, half, chosen):
    """As on processors with units for it, with few of them, and without: not all are here."""
    seconds = {torch.float32: 1.0, torch.bfloat16: half}
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: seconds[dtype])
    assert measure_precision(CPU) == MeasuredPrecision(chosen, 1 / half)
    assert precision_of(make_fabric("cpu", "auto")) == chosen


@pytest.mark.parametrize(("speedup", "used"), [(0.2, "32-true"), (1.0, "bf16-mixed"), (6.0, "bf16-mixed")])
def test_a_trained_network_is_used_as_it_was_trained_unless_that_is_slower(
    monkeypatch, caplog, speedup, used
):
    monkeypatch.setattr(
        "seqdsd.engine.device.measure_precision", lambda device: MeasuredPrecision("32-true", speedup)
    )
    with caplog.at_level("INFO"):
        assert precision_of(make_fabric("cpu", "bf16-mixed", is_trained=True)) == used
    assert ("takes 5 times as long as single precision here" in caplog.text) == (used == "32-true")
    assert precision_of(make_fabric("cpu", "bf16-mixed")) == "bf16-mixed"  # a run keeps its own
    monkeypatch.setattr("seqdsd.engine.device.measure_precision", None)
    assert precision_of(make_fabric("cpu", "32-true", is_trained=True)) == "32-true"


def test_other_devices_have_single_precision():
    assert measure_precision(torch.device("mps")).precision == "32-true"


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed"])
def test_what_is_asked_for_is_not_measured(monkeypatch, asked):
    monkeypatch.setattr(precision, "_seconds", None)
    assert precision_of(make_fabric("cpu", asked)) == asked


def test_of_several_processes_none_measures_for_the_others(monkeypatch, caplog):
    monkeypatch.setattr(precision, "_seconds", None)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("seqdsd.engine.device.Fabric.launch", lambda fabric: None)  # nobody else is there
    with caplog.at_level("INFO"):
        assert precision_of(make_fabric("cpu", "auto")) == "32-true"
    assert "several processes do not measure" in caplog.text
