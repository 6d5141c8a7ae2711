"""The learning rate of each step, against values by hand and torch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.engine import AdamWSettings, AdaptiveSettings, NesterovSettings
from seqdsd.engine.rate import RateSettings

CYCLE = RateSettings(curve="cosine", warmup=0.2)

numbers = st.floats(1e-9, 1e3)
lengths = st.integers(1, 12)


def rates(settings, peak, *, epochs, num_batches):
    """Of every step of a phase."""
    return [
        settings.rate(peak, epochs=epochs, epoch=epoch, step=step, num_batches=num_batches)
        for epoch in range(epochs)
        for step in range(num_batches)
    ]


def test_a_cycle_by_hand():
    """Eleven steps: a fifth of them, 2, to the peak, then 8 down; cosines of eighths of a half turn."""
    down = [0.961978, 0.853700, 0.691650, 0.5005, 0.309350, 0.147300, 0.039022, 0.001]
    expected = [0.04, 0.52, 1.0, *down]
    assert rates(CYCLE, 2e-3, epochs=1, num_batches=11) == pytest.approx(
        [2e-3 * share for share in expected], rel=1e-5
    )


def test_warm_up_alone_ends_at_the_peak_and_stays_there():
    settings = RateSettings(warmup=0.5)
    assert rates(settings, 1.0, epochs=4, num_batches=2) == pytest.approx([0.04, 0.28, 0.52, 0.76] + [1] * 4)


def torchs(peak, make, steps):
    """The rates of a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=peak)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("epochs", "num_batches", "warmup"), [(5, 8, 0.2), (10, 3, 0.1), (1, 50, 0.3), (7, 10, 0.0), (2, 2, 0.5)]
)
def test_the_same_as_torch_s_schedulers(epochs, num_batches, warmup):
    schedulers, total = torch.optim.lr_scheduler, epochs * num_batches
    rising = round(warmup * total)
    found = rates(RateSettings(curve="cosine", warmup=warmup), 3e-3, epochs=epochs, num_batches=num_batches)
    if rising:
        up = torchs(3e-3, lambda one: schedulers.LinearLR(one, 0.04, total_iters=rising), rising)
        assert found[:rising] == pytest.approx(up, rel=1e-9)
    falling = total - rising
    down = torchs(3e-3, lambda one: schedulers.CosineAnnealingLR(one, falling - 1, eta_min=3e-6), falling)
    assert found[rising:] == pytest.approx(down, rel=1e-6)
    if not rising:  # torch's others have no cycle without one
        return
    up = torchs(3e-3, lambda one: schedulers.LinearLR(one, 0.04, total_iters=rising), rising)
    assert found[:rising] == pytest.approx(up, rel=1e-9)

    def one_cycle(anneal_strategy):
        return torchs(
            0.1,
            lambda one: schedulers.OneCycleLR(
                one,
                3e-3,
                total_steps=total,
                pct_start=(rising + 1) / total,  # it counts the peak itself
                anneal_strategy=anneal_strategy,
                cycle_momentum=False,
                div_factor=25,
                final_div_factor=40,
            ),
            total - 1,  # it has no step after the last
        )

    assert found[:rising] == pytest.approx(one_cycle("linear")[:rising], rel=1e-9)
    assert found[rising:-1] == pytest.approx(one_cycle("cos")[rising:], rel=1e-6)


@given(peak=numbers, anneal=st.floats(1, 3), epoch=st.integers(0, 11), step=st.integers(0, 20))
def test_without_curve_and_warm_up_the_bits_are_those_of_before_there_were_any(peak, anneal, epoch, step):
    for settings in (RateSettings, NesterovSettings, AdaptiveSettings):
        rate = settings(anneal=anneal).rate(peak, epochs=12, epoch=epoch, step=step, num_batches=7)
        assert rate == peak / anneal**epoch


@given(peak=numbers, epochs=lengths, num_batches=lengths, warmup=st.floats(0, 0.999))
def test_rates_rise_to_the_peak_and_fall_from_it_to_a_thousandth(peak, epochs, num_batches, warmup):
    settings = RateSettings(curve="cosine", warmup=warmup)
    found = rates(settings, peak, epochs=epochs, num_batches=num_batches)
    top = found.index(max(found))
    assert found[top] == pytest.approx(peak) and all(rate > 0 for rate in found)
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    if top:
        assert found[0] == pytest.approx(0.04 * peak)
    if top < len(found) - 1:
        assert found[-1] == pytest.approx(0.001 * peak)


def test_annealing_comes_on_top_of_the_curve():
    annealed = RateSettings(curve="cosine", warmup=0.2, anneal=2.0)
    plain, both = (rates(one, 1.0, epochs=3, num_batches=4) for one in (CYCLE, annealed))
    assert both == [rate / 2 ** (step // 4) for step, rate in enumerate(plain)]


def test_an_epoch_of_a_few_more_steps_keeps_its_last_planned_rate():
    at = [CYCLE.rate(1.0, epochs=3, epoch=1, step=step, num_batches=4) for step in range(8)]
    assert at[3:] == [at[3]] * 5 and len(set(at[:4])) == 4
    assert CYCLE.rate(1.0, epochs=3, epoch=2, step=9, num_batches=4) == pytest.approx(0.001)


def test_by_default_only_adamw_has_a_cycle():
    expected = {NesterovSettings: ("constant", 0), AdaptiveSettings: ("constant", 0)}
    for settings, defaults in {**expected, AdamWSettings: ("cosine", 0.2)}.items():
        assert (settings().curve, settings().warmup, settings().anneal) == (*defaults, 1)


@pytest.mark.parametrize("settings", [RateSettings, NesterovSettings, AdamWSettings, AdaptiveSettings])
@pytest.mark.parametrize(
    ("name", "value"),
    [("warmup", -0.1), ("warmup", 1.0), ("warmup", math.nan), ("anneal", 0.9), ("anneal", math.nan)],
)
def test_rate_settings_out_of_range(settings, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        settings(**{name: value})
