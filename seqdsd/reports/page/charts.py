"""Charts as Vega-Lite specifications, and the library that draws them in a page without any network.

Colours are the page's CSS variables: day, night and print restyle a chart that stands. A chart whose data changes with
what is chosen on the page reads named data sets, which its docstring lists. Leaves out how a page shows charts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import altair as alt
import vl_convert

Spec = dict[str, Any]

LIBRARY_NOTICE = (
    "Charts are drawn by Vega, Vega-Lite and Vega-Embed, © University of Washington Interactive Data Lab and "
    "contributors, under the BSD 3-clause license: https://github.com/vega/vega/blob/main/LICENSE"
)

_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "domainColor": "var(--soft)",
        "tickColor": "var(--soft)",
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "text": {"fill": "var(--soft)", "fontSize": 11},
}

_BAND_COLOURS = {
    "dense": "transparent",
    "sparse": "var(--band-sparse)",
    "redense": "var(--band-redense)",
    "shared": "var(--band-redense)",
}
_EPOCHS = alt.Scale(zero=False, nice=False)
# Room above and below a score, so that it does not run through the names of the bands.
_SCALES = {"linear": alt.Scale(zero=False, padding=28), "log": alt.Scale(type="log", nice=False)}


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour: an arm, or one of a run's two losses; told apart by its dashes too."""

    name: str
    colour: str
    dash: tuple[int, ...] = (1, 0)


@dataclass(frozen=True)
class Score:
    """One point of the box plot, as the axis counts it."""

    arm: str
    seed: int
    score: float


ALL_PARENTS = "all parents"


@dataclass(frozen=True)
class Improvement:
    """One line of the chart of improvements, as the axis counts it: a contrast, of one parent or of all."""

    contrast: str
    who: str
    value: float | None
    low: float | None
    high: float | None


@cache
def library() -> str:
    """The script that defines ``vegaEmbed``; it takes a second or two to be put together, once a process."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    return f"(() => {{\n{bundle}\n}})();"  # its one-letter names stay its own


def box_plot(scores: Sequence[Score], arms: Sequence[Series], *, title: str, description: str) -> Spec:
    """The paper's Figure 4: a box an arm, and in it the point of each seed.

    Args:
        scores: In the axis' unit.
        arms: From left to right.
        title: Of the axis.
        description: The chart in words, for those who do not see it.
    """
    rows = [{**asdict(score), "place": place} for score, place in zip(scores, _places(scores), strict=True)]
    names, colour = _names(arms), _colour("arm:N", arms)
    x = alt.X(
        "arm:N",
        sort=names,
        scale=alt.Scale(domain=names),
        axis=alt.Axis(title=None, labelAngle=0, ticks=False),
    )
    y = alt.Y(
        "score:Q", title=title, scale=alt.Scale(domain=_around([score.score for score in scores]), nice=True)
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    boxes = base.mark_boxplot(
        extent="min-max", size=46, opacity=0.3, median={"color": "var(--ink)"}, rule={"color": "var(--soft)"}
    ).encode(color=colour)
    offset = alt.XOffset("place:Q", scale=alt.Scale(domain=[-1, 1]))
    points = base.mark_point(filled=True, size=70, opacity=1, stroke="var(--card)", strokeWidth=1).encode(
        xOffset=offset,
        color=colour,
        tooltip=[
            alt.Tooltip("arm:N", title="Arm"),
            alt.Tooltip("seed:O", title="Seed"),
            alt.Tooltip("score:Q", title=title, format=".2f"),
        ],
    )
    return _finished(boxes + points, height=320, description=description)


def improvements(rows: Sequence[Improvement], *, title: str, description: str) -> Spec:
    """A line for each parent's improvement and its interval, and a thick one for all parents', contrast by contrast.

    Args:
        rows: Contrast by contrast, from above.
        title: Of the axis.
        description: The chart in words, for those who do not see it.
    """
    names = list(dict.fromkeys(row.contrast for row in rows))
    lines = list(dict.fromkeys(row.who for row in rows if row.who != ALL_PARENTS)) + [ALL_PARENTS]
    values = [{**asdict(row), "is_all": row.who == ALL_PARENTS} for row in rows]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("contrast:N", sort=names, title=None, axis=alt.Axis(labelLimit=320, ticks=False)),
        yOffset=alt.YOffset("who:N", sort=lines, scale=alt.Scale(domain=lines, paddingInner=0.3)),
        color=alt.condition("datum.is_all", alt.value("var(--arm-dsdsd)"), alt.value("var(--arm-baseline)")),
        tooltip=[
            alt.Tooltip("contrast:N", title="Contrast"),
            alt.Tooltip("who:N", title="Of"),
            *(
                alt.Tooltip(f"{key}:Q", title=said, format=".3f")
                for key, said in (("value", "Improvement"), ("low", "from"), ("high", "to"))
            ),
        ],
    )
    axis = alt.X("low:Q", title=title, scale=alt.Scale(nice=True))
    known = base.transform_filter("isValid(datum.low)")
    intervals = known.mark_rule(strokeCap="round").encode(
        x=axis,
        x2="high:Q",
        strokeWidth=alt.condition("datum.is_all", alt.value(4), alt.value(1.5)),
    )
    points = base.mark_point(filled=True, opacity=1, stroke="var(--card)", strokeWidth=1).encode(
        x=alt.X("value:Q", title=title),
        size=alt.condition("datum.is_all", alt.value(110), alt.value(40)),
    )
    none = alt.Chart(alt.Data(values=[{"none": 0}])).mark_rule(strokeDash=[3, 3], color="var(--soft)")
    height = 34 + 13 * len(lines) * len(names)
    return _finished(
        alt.layer(none.encode(x="none:Q"), intervals, points), height=height, description=description
    )


def curves(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    scale: Literal["linear", "log"] = "linear",
    height: int = 280,
) -> Spec:
    """Something over epochs, on bands of the phases: a thin line for each run, a thick one for their mean; no legend.

    Reads the data sets ``points`` (``epoch``, ``phase``: in whose band that is, ``value``, ``series``, ``line``: which
    run) and ``bands`` (``start`` and ``end`` in epochs, ``name``, ``kind``). Hovering shows the means at an epoch.

    Args:
        series: What is drawn; the page says which colour and dashes each has.
        title: Of the axis.
        description: The chart in words, for those who do not see it.
        scale: Of the axis; ``log`` shows equal relative gains as equal, and needs values above 0.
        height: Without the axis, in pixels.
    """
    points = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("epoch:Q", title="epoch", scale=_EPOCHS, axis=alt.Axis(grid=False, tickMinStep=1)),
        y=alt.Y("value:Q", title=title, scale=_SCALES[scale]),
        color=_colour("series:N", series),
        strokeDash=_dashes("series:N", series),
    )
    thin = points.mark_line(strokeWidth=1, opacity=0.32, clip=True).encode(detail="line:N")
    mean = points.mark_line(strokeWidth=2.4, clip=True).encode(y=alt.Y("mean(value):Q", title=title))
    return _finished(
        alt.layer(*_bands(), thin, mean, _strips(series)), height=height, description=description
    )


def weight_histogram(*, description: str) -> Spec:
    """One moment of the paper's Figure 2.

    Reads the data sets ``bins`` (``low``, ``high``, ``share`` of all weights in percent, ``count``; exact zeros left
    out), ``lines`` (``x``: the threshold on both sides), ``zeros`` (``share``) and ``cut`` (``x``, ``label``: bars
    that go past the frame), and the parameters ``right`` and ``top``, where the axes end.
    """
    # Ends that are given: Vega would warn of those it works out from a data set that is empty.
    across = alt.Scale(domain=[alt.ExprRef("-right"), alt.ExprRef("right")], nice=False)
    up = alt.Scale(type="sqrt", domain=[0, alt.ExprRef("top")], nice=False)
    x = alt.X("low:Q", bin="binned", title=None, scale=across, axis=alt.Axis(grid=False, tickCount=5))
    y = alt.Y(
        "share:Q", title="% of weights", scale=up, axis=alt.Axis(values=[0, 0.5, 1, 2, 5, 10, 20, 50, 100])
    )
    bars = (
        alt.Chart(alt.NamedData("bins"))
        .mark_bar(binSpacing=0, color="var(--bar)", clip=True)
        .encode(
            x=x,
            x2="high:Q",
            y=y,
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".4f"),
                alt.Tooltip("high:Q", title="to", format=".4f"),
                alt.Tooltip("count:Q", title="weights", format=","),
                alt.Tooltip("share:Q", title="% of all", format=".2f"),
            ],
        )
    )
    lines = (
        alt.Chart(alt.NamedData("lines")).mark_rule(strokeDash=[3, 3], color="var(--loss)").encode(x="x:Q")
    )
    zeros = (
        alt.Chart(alt.NamedData("zeros"))
        .mark_rule(strokeWidth=4, color="var(--mark-line)", clip=True)
        .encode(
            x=alt.datum(0), y="share:Q", tooltip=[alt.Tooltip("share:Q", title="% exactly 0", format=".2f")]
        )
    )
    cut = (
        alt.Chart(alt.NamedData("cut"))
        .mark_text(baseline="bottom", dy=-3)
        .encode(x="x:Q", y=alt.value(0), text="label:N")
    )
    ends = [alt.param(name=name, value=1) for name in ("top", "right")]
    chart = alt.layer(bars, lines, zeros, cut).add_params(*ends)
    return _finished(chart, height=150, description=description)


def _around(values: Sequence[float | int]) -> list[float]:
    """A domain with some room on both sides, also of equal values."""
    low, high = float(min(values)), float(max(values))
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - room, high + room]


def _places(scores: Sequence[Score]) -> list[float]:
    """How far to the side a point goes, so that equal scores are seen apart: in the order of seeds, in every arm."""
    seeds = sorted({score.seed for score in scores})
    half = (len(seeds) - 1) / 2
    return [0.25 * (seeds.index(score.seed) - half) / max(half, 1) for score in scores]


def _bands() -> list[alt.Chart]:
    """The phases behind the curves, with their names at the top."""
    bands = alt.Chart(alt.NamedData("bands"))
    kinds = alt.Color(
        "kind:N", scale=alt.Scale(domain=list(_BAND_COLOURS), range=list(_BAND_COLOURS.values())), legend=None
    )
    areas = bands.mark_rect().encode(x="start:Q", x2="end:Q", fill=kinds)
    edges = bands.mark_rule(color="var(--line)").encode(x="start:Q")
    names = (
        bands.transform_calculate(middle="(datum.start + datum.end) / 2")
        .mark_text(baseline="top", dy=4, lineBreak="\n", lineHeight=12)
        .encode(x="middle:Q", y=alt.value(0), text="name:N")
    )
    return [areas, edges, names]


def _strips(series: Sequence[Series]) -> alt.Chart:
    """A strip an epoch, seen under the pointer only, whose tooltip says what each series is there."""
    # Not the nearest point: of that, Vega-Lite's tooltips lose what is not a number.
    hover = alt.selection_point(fields=["epoch"], on="pointerover", clear="pointerout", empty=False)
    told = [alt.Tooltip("epoch:Q", title="Epoch"), alt.Tooltip("phase:N", title="Phase")]
    told += [alt.Tooltip(f"{name}:Q", format=".2f") for name in _names(series)]
    return (
        alt.Chart(alt.NamedData("points"))
        .transform_pivot("series", value="value", groupby=["epoch", "phase"], op="mean")
        .transform_calculate(left="datum.epoch - 0.5", right="datum.epoch + 0.5")
        .mark_rect(color="var(--soft)")
        .encode(
            x="left:Q",
            x2="right:Q",
            opacity=alt.when(hover).then(alt.value(0.22)).otherwise(alt.value(0)),
            tooltip=told,
        )
        .add_params(hover)
    )


def _names(series: Sequence[Series]) -> list[str]:
    return [one.name for one in series]


# No legends: theirs would not wrap on a phone, so that the page writes them.
def _colour(field: str, series: Sequence[Series]) -> alt.Color:
    scale = alt.Scale(domain=_names(series), range=[one.colour for one in series])
    return alt.Color(field, scale=scale, legend=None)


def _dashes(field: str, series: Sequence[Series]) -> alt.StrokeDash:
    scale = alt.Scale(domain=_names(series), range=[list(one.dash) for one in series])
    return alt.StrokeDash(field, scale=scale, legend=None)


def _finished(chart: alt.LayerChart | alt.FacetChart, *, height: int, description: str) -> Spec:
    """As wide as the page allows; and read to the blind as its description, not mark by mark."""
    spec: Mapping[str, Any] = chart.properties(
        width="container", height=height, description=description
    ).to_dict()
    return {**spec, "config": _CONFIG, "autosize": {"type": "fit-x", "contains": "padding"}}
