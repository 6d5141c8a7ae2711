"""The charts' specifications, judged by what Vega-Lite compiles them to and draws of them."""

import json
import re

import pytest
import vl_convert

from seqdsd.reports.page.charts import Score, Series, Spec, box_plot, curves, library, weight_histogram

ARMS = [Series("Baseline", "var(--one)"), Series("DSD", "var(--other)", (2, 2))]
SCORES = [Score("Baseline", seed, 17.5) for seed in range(3)] + [
    Score("DSD", seed, 12.5 + seed) for seed in range(3)
]
BANDS = [
    {"start": 0.5, "end": 2.5, "name": "Dense\nIter 0", "kind": "dense"},
    {"start": 2.5, "end": 4.5, "name": "Sparse\nIter 1", "kind": "sparse"},
]


def filled(spec: Spec, **sets: list[dict]) -> Spec:
    return {**spec, "datasets": sets}


def points(values: dict[str, list[float]]) -> list[dict]:
    return [
        {"epoch": epoch, "phase": "p", "value": value, "series": name, "line": f"{name}, seed 0"}
        for name, one in values.items()
        for epoch, value in enumerate(one, start=1)
    ]


@pytest.fixture
def box() -> Spec:
    return box_plot(SCORES, ARMS, title="WER (%)", description="two arms")


def marks_of(spec: Spec, kind: str) -> list[dict]:
    """Everything of a kind that Vega would draw, anywhere in its scene."""
    found: list[dict] = []

    def walk(group: dict) -> None:
        for item in group.get("items", []):
            if group.get("marktype") == kind and group.get("role") == "mark":
                found.append(item)
            walk(item)

    walk(vl_convert.vegalite_to_scenegraph(spec)["scenegraph"])
    return found


def test_every_seed_is_a_point_of_its_own(box):
    symbols = marks_of(box, "symbol")
    assert len(symbols) == 6
    assert (
        len({(round(one["x"], 3), round(one["y"], 3)) for one in symbols}) == 6
    )  # equal scores beside each other
    seeds = [one["x"] for one in symbols[:3]]
    assert seeds == sorted(seeds)
    texts = json.dumps(vl_convert.vegalite_to_vega(box))
    assert all(f'\\"{title}\\"' in texts for title in ("Arm", "Seed", "WER (%)"))


def test_higher_scores_stand_higher(box):
    drawn = zip(SCORES, marks_of(box, "symbol"), strict=True)
    heights = {(score.arm, score.seed): one["y"] for score, one in drawn}
    assert heights["DSD", 0] > heights["DSD", 1] > heights["DSD", 2] > heights["Baseline", 0]


def test_equal_scores_leave_room_around_them():
    spec = box_plot([Score("DSD", 0, 12.03), Score("DSD", 1, 12.03)], ARMS[1:], title="WER", description="")
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < 12.03 < high
    assert json.dumps(box_plot([Score("DSD", 0, 0.0)], ARMS[1:], title="WER", description=""))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_curves_are_drawn_for_each_run_and_in_the_mean(scale):
    rows = points({"Baseline": [30.0, 20.0, 15.0, 12.0], "DSD": [30.0, 18.0, 14.0, 10.0]})
    rows += [{**row, "value": row["value"] + 2, "line": f"{row['series']}, seed 1"} for row in rows]
    spec = filled(curves(ARMS, title="WER", description="two arms", scale=scale), points=rows, bands=BANDS)
    lines = marks_of(spec, "line")
    ends = sorted(
        {round(one["y"], 2) for one in lines if round(one["x"], 1) == round(max(o["x"] for o in lines), 1)}
    )
    assert len(lines) == 4 * 4 + 2 * 4  # four runs, two means, of four epochs
    assert (
        len(ends) == 5
    )  # of 10, 11, 12 (a run, no mean), 13 and 14: the means of 10, 12 and of 12, 14 are two
    areas = [
        one for one in marks_of(spec, "rect") if one.get("fill", "").startswith(("var(--band", "transparent"))
    ]
    assert [one["fill"] for one in areas] == ["transparent", "var(--band-sparse)"]
    assert areas[0]["x"] + areas[0]["width"] == pytest.approx(areas[1]["x"])
    assert [one["text"] for one in marks_of(spec, "text")] == ["Dense\nIter 0", "Sparse\nIter 1"]


def test_a_strip_an_epoch_waits_for_the_pointer():
    rows = points({"Baseline": [30.0, 20.0, 15.0, 12.0], "DSD": [28.0, 18.0, 14.0, 10.0]})
    spec = filled(curves(ARMS, title="WER", description=""), points=rows, bands=BANDS)
    bands, strips = (
        [one for one in marks_of(spec, "rect") if (one.get("opacity") == 0) == hidden]
        for hidden in (False, True)
    )
    assert len(strips) == 4 and {round(one["width"], 3) for one in strips} == {
        round(bands[0]["width"] / 2, 3)
    }
    assert [strips[0]["x"], strips[2]["x"]] == pytest.approx([one["x"] for one in bands])


def test_the_page_writes_the_legend(box):
    spec = filled(curves(ARMS, title="WER", description=""), points=points({"DSD": [3.0, 2.0]}), bands=BANDS)
    assert "legends" not in vl_convert.vegalite_to_vega(
        spec
    ) and "legends" not in vl_convert.vegalite_to_vega(box)


def test_weights_are_bars_below_the_frames_top():
    shares = [1.0, 4.0, 16.0, 4.0]
    bins = [
        {"low": n - 2, "high": n - 1, "share": share, "count": int(share)} for n, share in enumerate(shares)
    ]
    spec = filled(
        weight_histogram(description="weights"),
        bins=bins,
        lines=[{"x": -1}, {"x": 1}],
        zeros=[{"share": 50.0}],
        cut=[{"x": 0, "label": "50.0 % at 0"}],
    )
    spec["params"] = [{**one, "value": {"top": 16, "right": 2}[one["name"]]} for one in spec["params"]]
    bars = marks_of(spec, "rect")
    heights = [one["height"] / bars[2]["height"] for one in bars]
    assert heights == pytest.approx([0.25, 0.5, 1.0, 0.5])  # a square-root scale
    assert {round(one["width"], 1) for one in bars} == {round(bars[0]["width"], 1)}
    assert [one["text"] for one in marks_of(spec, "text")] == ["50.0 % at 0"]


def test_colours_are_the_pages(box):
    for spec in (box, curves(ARMS, title="WER", description=""), weight_histogram(description="")):
        text = json.dumps(spec)
        assert not re.search(r"#[0-9a-fA-F]{3}|rgb|black|steelblue", text)
        assert "var(--soft)" in text


def test_charts_say_what_they_are(box):
    assert (box["description"], box["width"]) == ("two arms", "container")


def test_the_library_is_one_script_that_keeps_to_itself():
    script = library()
    assert "window.vegaEmbed" in script and "</script" not in script.lower()
    assert script.startswith("(() => {") and script.endswith("})();")
    assert library() is script
