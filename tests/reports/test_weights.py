"""Figure 2 as numbers, counted by hand."""

import pytest

from seqdsd.reports.runs.reading import read_runs
from seqdsd.reports.weights import MOMENTS, layer_in_words, read_rounds, rounds_as_json, weight_grid


def layer(name: str = "rnn", *, weights: int = 100, **changed) -> dict:
    return {
        "name": name,
        "shape": [weights // 10, 10],
        "weights": weights,
        "low": -1.0,
        "high": 1.0,
        "histogram": [weights // 2, 0, weights - weights // 2],
        "threshold": 0.25,
        "zeros": 0,
        "mean_abs": 0.5,
        "pruned": weights // 2,
        "pruned_mean_abs": 0.125,
        "kept_mean_abs": 0.75,
        "pruned_near_zero": weights // 2,
        **changed,
    }


def moments(*layers: dict, count: int = 5, number: int = 1, last: dict | None = None) -> list[dict]:
    rows = [{"round": number, "moment": moment, "layers": list(layers)} for moment in MOMENTS[:count]]
    if last is not None:
        rows[-1] = {**rows[-1], "layers": [{**one, **last} for one in layers]}
    return rows


TRAINED = {"pruned_near_zero": 40, "mean_abs": 0.4, "pruned_mean_abs": 0.05, "kept_mean_abs": 0.8}


def test_a_row_a_layer():
    (one,) = read_rounds(moments(layer(), last=TRAINED))
    grid = weight_grid(one)
    assert grid.rows == (
        (
            "rnn",
            "10 × 10",
            "100",
            "50.0",
            "0.2500",
            "80.0",
            "0.5000",
            "0.4000",
            "−20.0",
            "0.7500",
            "0.8000",
            "0.1250",
            "0.0500",
        ),
    )
    assert len(grid.header) == len(grid.rows[0])


def test_a_layer_in_words():
    (one,) = read_rounds(moments(layer(), last=TRAINED))
    assert layer_in_words(one, "rnn") == (
        "rnn, 10 × 10: 100 weights, of which 50.0 % were pruned (|w| up to 0.2500). After the redense phase 80.0 % of "
        "the pruned weights are still that near zero, their mean |w| is 0.0500; the mean |w| of all weights went from "
        "0.5000 to 0.4000 (−20.0 %)."
    )


def test_a_round_that_is_under_way():
    (one,) = read_rounds(moments(layer(), count=3))
    assert weight_grid(one).rows[0][5:9] == ("-", "0.5000", "-", "-")
    assert layer_in_words(one, "rnn").endswith("The redense phase is not finished.")
    (drawn,) = rounds_as_json([one], max_layers=9)
    assert drawn["moments"] == list(MOMENTS[:3]) and len(drawn["layers"][0]["histograms"]) == 3


def test_a_layer_of_which_nothing_is_pruned():
    nothing = {"pruned": 0, "threshold": None, "pruned_mean_abs": None, "pruned_near_zero": 0}
    (one,) = read_rounds(moments(layer(**nothing), last=nothing))
    assert weight_grid(one).rows[0][3:6] == ("0.0", "-", "-")
    assert layer_in_words(one, "rnn") == "rnn, 10 × 10: 100 weights; none was pruned."


def test_rounds_are_apart_and_in_order():
    rows = [*moments(layer(), number=2), *moments(layer("fc", weights=20), layer(), number=1)]
    first, second = read_rounds(rows)
    assert (first.number, list(first.first), second.number, list(second.first)) == (
        1,
        ["fc", "rnn"],
        2,
        ["rnn"],
    )


def test_what_not_every_moment_has_is_left_out():
    rows = moments(layer("fc"), layer())
    rows[2]["layers"] = [layer()]
    rows.append({"round": 1, "moment": "after lunch", "layers": [layer()]})
    (one,) = read_rounds(rows)
    assert list(one.moments) == list(MOMENTS) and list(one.first) == ["rnn"]
    rows[3]["layers"] = []
    assert read_rounds(rows) == ()


@pytest.mark.parametrize(
    ("max_layers", "names", "largest"), [(9, ["a", "b", "c"], 1), (2, ["b", "c"], 0), (1, ["b"], 0)]
)
def test_the_largest_layers_are_drawn(max_layers, names, largest):
    (one,) = read_rounds(moments(layer("a", weights=20), layer("b", weights=200), layer("c", weights=200)))
    (drawn,) = rounds_as_json([one], max_layers=max_layers)
    assert [one["name"] for one in drawn["layers"]] == names and drawn["largest"] == largest


def test_a_runs_own_records(comparison):
    (run,) = read_runs([comparison / "seed-0/dsdsd"]).runs
    first, second = read_rounds(run.weights)
    assert [row[0] for row in weight_grid(second).rows] == ["fc.weight", "rnn.weight"]
    drawn = rounds_as_json([first, second], max_layers=9)
    for one in drawn:
        for shown in one["layers"]:
            assert [sum(histogram) for histogram in shown["histograms"]] == [shown["weights"]] * 5
