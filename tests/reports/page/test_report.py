"""The report's page, as text and in a real browser."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from seqdsd.records import RunFolder, read_json_lines, write_json_lines
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.comparison.contrasts import headline
from seqdsd.reports.page import report as module
from seqdsd.reports.page.report import report_page
from seqdsd.reports.runs.reading import read_runs

NUM_PHASES = 5
NASTY = "</script><script>window.pwned=1</script><img src=q onerror='window.pwned=1'>"


def page_of(*paths: Path, **settings) -> str:
    run_set = read_runs(paths)
    return report_page(run_set, compare_runs(run_set.runs), **settings).html


def text_of(html: str) -> str:
    without = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]*>", " ", without).split()))


def data_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    )


def add_recordings(folder: Path) -> None:
    """A second of a tone for each utterance of every run."""
    sounds = folder / "sounds"
    sounds.mkdir()
    for path in folder.glob("seed-*/*"):
        run = RunFolder(path)
        rows = read_json_lines(next(path.glob("hyps/*.test.jsonl")))
        write_json_lines(
            run.audio, [{"id": row["id"], "path": str(sounds / f"{row['id']}.wav")} for row in rows]
        )
    for number in range(42):
        tone = (3000 * np.sin(np.arange(8000) * (0.1 + number / 100))).astype(np.int16)
        soundfile.write(sounds / f"u{number:02d}.wav", tone, 8000)


@pytest.fixture(scope="module")
def heard(comparison, tmp_path_factory) -> Path:
    """The comparison on speech, with recordings."""
    folder = tmp_path_factory.mktemp("heard") / "an4"
    shutil.copytree(comparison, folder)
    add_recordings(folder)
    return folder


@pytest.fixture(scope="module")
def html(heard) -> str:
    """Its page."""
    return page_of(heard)


@pytest.fixture(scope="module")
def one_html(heard) -> str:
    """The page of one of its runs."""
    return page_of(heard / "seed-0/dsdsd")


# As text


def test_the_page_begins_with_the_result(html, comparison):
    said = text_of(html)
    (one,) = compare_runs(read_runs([comparison]).runs)
    assert said.index(headline(one)) < said.index(headline(one, against="LLR"))
    assert said.index(headline(one, against="LLR")) < said.index("20 runs, 5 seeds, 160 epochs.")
    found = re.findall(r"<(h2|h3|figcaption)\b[^>]*>(.*?)</\1>", html, re.DOTALL)
    headings = [text_of(heading) for _, heading in found]
    parts = [
        "after Figure 4",
        "after Table 10",
        "more than chance",
        "Network against network",
        "after Table 7",
    ]
    parts += [
        "after Table 1$",
        "Curves",
        "Dev WER",
        "after Figure 2",
        "every pruned layer, round 1",
        "Utterances",
    ]
    parts += ["by which rule", "All runs"]
    places = [next(n for n, heading in enumerate(headings) if re.search(part, heading)) for part in parts]
    assert places == sorted(places)


def test_tables_hold_the_numbers_of_the_grids(html):
    rows = [text_of(row) for row in re.findall(r"<tr[^>]*>.*?</tr>", html, re.DOTALL)]
    assert "0 16.67 15.83 15.00 12.50" in rows  # seed 0
    assert "Mean 17.50 17.00 15.33 12.50" in rows
    assert any(
        row.startswith("WER DSDSD on Baseline 12 : 12 17.50 ± 1.32 12.50 ± 1.32 5.00 28.57") for row in rows
    )
    assert any(row.startswith("Dense Iter 2 * 12.50 12.50") for row in rows)
    assert "rnn.weight 100 × 10 rnn.* asked for 1,000 50 25" in rows


def test_the_page_is_one_file_below_ten_megabytes(html):
    assert len(html.encode()) < 10e6
    assert not re.search(r'(src|href)="(?!#|data:)', html.split('<script type="application/json"')[0])
    assert "default-src 'none'" in html and "unsafe" not in html.split("<style>")[0]


def test_media_take_the_room_that_is_given(heard):
    one = heard / "seed-0/dsd"
    sizes = [len(page_of(one, media_mb=room)) for room in (0, 0.5, 6)]
    assert 470_000 < sizes[1] - sizes[0] <= 503_000  # what is left is less than a recording
    recordings = 42 * 16_044 * 4 / 3
    assert recordings < sizes[2] - sizes[0] < 1.05 * recordings  # spectrograms of tones, too, are small
    for room in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a number of at least 0"):
            page_of(one, media_mb=room)


def test_words_stand_where_they_are_said(show, heard, tmp_path):
    """A second of recording: from a quarter, and from a half of the picture's width."""
    folder = shutil.copytree(heard / "seed-0/dsd", tmp_path / "dsd")
    line = "u{0:02d} 1 0.25 0.10 <b>a 0.9\nu{0:02d} 1 0.50 0.10 <b>b 0.9\n"
    (folder / "words.ctm").write_text("".join(line.format(number) for number in range(42)))
    figure = show(page_of(folder)).locator("#cards .spectrogram").first
    assert figure.locator("img").evaluate("one => one.complete && one.naturalHeight") == 64
    box = figure.bounding_box()
    for place, word, share in ((0, "<b>a", 0.25), (1, "<b>b", 0.5)):
        label = figure.locator("span").nth(place)
        assert label.inner_text() == word
        assert label.bounding_box()["x"] == pytest.approx(box["x"] + share * box["width"], abs=1.5)


def test_by_default_media_take_the_room_that_the_page_leaves(heard, monkeypatch):
    one = heard / "seed-0/dsd"
    limit = len(page_of(one, media_mb=0).encode()) + 300_000
    monkeypatch.setattr(module, "MAX_PAGE_BYTES", limit)
    assert limit - 25_000 < len(page_of(one).encode()) <= limit  # what is left is less than a recording


def test_a_baseline_alone_has_no_overview(make_arm):
    assert "after Table 1<" not in page_of(make_arm("run", "baseline").path)


def test_another_split(make_arm):
    folder = make_arm("run", "dsd")
    path = folder.hypotheses("Dense Iter 1", "dev")
    write_json_lines(path, [row | {"hyp": "dev"} for row in read_json_lines(path)])
    (group,) = data_of(page_of(folder.path, split="dev"))["items"]
    assert "dev" in {text[0] for item in group["items"] for text in item["texts"]}
    with pytest.raises(ValueError, match="no run was scored on 'train', but on dev, test; take one"):
        page_of(folder.path, split="train")


def test_one_run_alone_claims_nothing(comparison):
    said = text_of(page_of(comparison / "seed-0/dsdsd"))
    assert "no equal-epoch baseline is there, so this does not show that pruning helped" in said
    assert "Table 10" not in said and "All runs" not in said and "Dense Iter 2 * 12.50" in said
    first = text_of(page_of(comparison / "seed-0/dense"))
    assert (
        "dense: 26.67 % WER on test after Dense Iter 0; the first phase alone, with nothing to compare it to."
        in first
    )
    assert "This run prunes nothing." in first


def test_refused_and_unfinished_runs_are_named(make_comparison):
    folder = make_comparison(seeds=[0, 1])
    (folder / "seed-1/llr/config.toml").write_text("= <b>")
    unfinished = RunFolder(folder / "seed-1/dsdsd")
    unfinished.write_phases(unfinished.read_phases()[:3])
    html = page_of(folder)
    said = text_of(html)
    assert "1 run folder could not be reported" in said
    assert f"{folder}/seed-1/llr/config.toml: not " in said
    assert "DSDSD, seed 1 (unfinished)" in said and "3 of 5" in said
    assert "Unfinished and not counted: seed-1/dsdsd (3 of 5 phases)" in said


def test_markup_in_data_is_text(make_comparison):
    html = page_of(nasty_comparison(make_comparison))
    assert NASTY not in html and "<b>x" not in html
    assert html.count("<script") == 5 and html.count("</script>") == 5 and html.count("<style>") == 1


def nasty_comparison(make_comparison) -> Path:
    """Markup wherever a run folder holds strings."""
    folder = make_comparison("<b>x", seeds=[0], arms=["baseline", "dsd"])
    for path in folder.glob("seed-0/*"):
        run = RunFolder(path)
        for one in path.glob("hyps/*.jsonl"):
            rows = list(read_json_lines(one))
            rows[0] |= {"id": NASTY, "ref": f"{NASTY} {NASTY}", "hyp": f"{NASTY} no"}
            write_json_lines(one, rows)
        text = run.config.read_text().replace("--method", f"--out {NASTY}").replace("6f7db7ee1d90", NASTY)
        run.config.write_text(text.replace("data/an4", NASTY.replace("/", "")))
        if run.weight_statistics.is_file():
            for one in (run.weight_statistics, run.plan):
                one.write_text(
                    one.read_text().replace("fc.weight", NASTY.replace("'", "")).replace("asked for", "<b>x")
                )
    return folder


def test_many_layers_are_in_the_tables_only(comparison, monkeypatch):
    monkeypatch.setattr(module, "MAX_HISTOGRAMS", 2)
    html = page_of(comparison / "seed-0/dsdsd")
    assert [one["name"] for one in data_of(html)["runs"][0]["weights"][0]["layers"]] == ["rnn.weight"]
    assert "To choose from are the 1 largest layers of each run; the table holds all." in text_of(html)


def test_several_comparisons_on_one_page(comparison, caption_comparison):
    html = page_of(comparison / "seed-0", comparison / "seed-1", caption_comparison / "seed-0")
    said = text_of(html)
    assert "2 comparisons, 12 runs, 2 seeds" in said
    for part in (
        "Result 1",
        "Result 2",
        "Utterances and Captions",
        "DeepSpeech 1 on AN4",
        "NeuralTalk on Flickr8k",
    ):
        assert part in said


# In a browser


@pytest.fixture
def show(open_page):
    """Opens a page and waits until its charts are drawn."""

    def show_(html: str, **settings):
        page = open_page(html, **settings)
        page.locator("html.drawn").wait_for(state="attached", timeout=60_000)
        return page

    return show_


def cards(page) -> list[str]:
    return page.eval_on_selector_all("#cards .card", "all => all.map(one => one.dataset.id)")


def column(table, number: int) -> list[str]:
    return [one.strip() for one in table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()]


def test_a_comparison_is_clicked_through(show, html):
    page = show(html)
    # Every chart that is not hidden is drawn.
    assert page.locator(".triple .key").first.inner_text().split() == ["Baseline", "LLR", "DSD", "DSDSD"]
    charts = page.locator(".chart:visible")
    assert charts.count() == charts.locator("svg").count() == 1 + 3 + 2 + 5
    sort_a_table(page)
    play_an_utterance(page)
    switch_the_phase(page)
    switch_layer_and_round(page)
    change_the_run(page)


def sort_a_table(page) -> None:
    table = page.get_by_role("region", name="Scores on test by seed").locator("table")
    given = column(table, 1)
    title = table.get_by_role("columnheader", name="Baseline")
    for direction in ("ascending", "descending"):
        title.get_by_role("button").click()
        assert title.get_attribute("aria-sort") == direction
        scores = [float(one) for one in column(table, 2)[:5]]
        assert scores == sorted(scores, reverse=direction == "descending")
        assert column(table, 1)[5:] == given[5:] == ["Mean", "SD"]  # stay below
    title.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert column(table, 1) == given and title.get_attribute("aria-sort") == "none"


def play_an_utterance(page) -> None:
    player = page.locator("#cards audio").first
    assert player.get_attribute("aria-label").startswith("recording of u")
    player.focus()
    page.keyboard.press("Space")
    for _ in range(50):
        if player.evaluate("one => one.currentTime") > 0:
            break
        page.wait_for_timeout(100)
    assert player.evaluate("one => one.currentTime") > 0
    assert player.evaluate("one => one.duration") == pytest.approx(1.0)
    page.locator("#sort").select_option("id")  # it goes on while its card moves
    assert page.locator("#cards audio").count() == 42
    page.locator("#sort").select_option("gain")


def switch_the_phase(page) -> None:
    first = page.locator("#cards .card").first
    assert first.locator(".phases li").count() == 5
    page.locator("#column").select_option(label="Sparse Iter 1")
    assert first.locator(".phases li").count() == 1
    assert first.locator(".phase .name").inner_text() == "Sparse Iter 1"
    page.locator("#column").select_option(label="all")


def switch_layer_and_round(page) -> None:
    said = page.locator("#layer-said")
    before = page.locator("figure.moment").first.locator(".chart").inner_html()
    assert said.inner_text().startswith("rnn.weight, 100 × 10: 1,000 weights")
    page.locator("#layer").select_option(label="fc.weight")
    assert said.inner_text().startswith("fc.weight, 40 × 10: 400 weights")
    page.wait_for_timeout(500)
    assert page.locator("figure.moment").first.locator(".chart").inner_html() != before
    page.locator("#round").select_option(label="2")
    assert said.inner_text().startswith("fc.weight")
    assert page.get_by_role("heading", name="every pruned layer, round").count() == 2


def change_the_run(page) -> None:
    page.locator("#run").select_option(label="Baseline, seed 3")
    assert page.locator("#phases .of-run:visible h3").inner_text().startswith("Baseline, seed 3")
    assert page.locator(".run-name").inner_text() == "Baseline, seed 3"
    assert page.locator(".no-weights").is_visible() and not page.locator(".moments").is_visible()
    assert page.locator("#plan .of-run:visible").inner_text().endswith("This run prunes nothing.")
    assert page.locator("#cards .card").first.locator(".phases li").count() == 1
    page.locator("#view").select_option(label="last phase of every arm, seed 3")
    names = page.locator("#cards .card").first.locator(".phase .name").all_inner_texts()
    assert names == ["Baseline", "LLR", "DSD", "DSDSD"]
    page.locator("#run").select_option(label="DSD, seed 1")
    assert page.locator(".moments .chart:visible svg").count() == 5


def test_hovering_says_seed_and_score(show, html):
    page = show(html)
    tooltip = page.locator("#vg-tooltip-element")
    page.locator(".pair .chart svg .mark-symbol path").first.hover()
    assert [" ".join(one.split()) for one in tooltip.locator("tr").all_inner_texts()] == [
        "Arm Baseline",
        "Seed 0",
        "Test WER (%) 16.67".replace("Test", "test"),
    ]
    page.locator(
        ".triple .wide .chart svg .mark-rect.layer_5_marks path, .triple .wide .chart svg .role-mark path"
    ).last.hover(force=True)
    assert "Epoch" in tooltip.inner_text()


def count_utterances(run: RunFolder, **counts: int) -> None:
    """Let the records say how many lines the hypotheses have now."""
    records = run.read_phases()
    for record in records:
        for split, count in counts.items():
            record[split]["utterances"] = count
    run.write_phases(records)


def test_errors_are_marked_not_by_colour_alone(show, make_comparison):
    folder = make_comparison(seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    said = {"Dense Iter 0": "won two four", "Sparse Iter 1": "", "Dense Iter 1": "one two uh three four"}
    for phase, hyp in said.items():
        write_json_lines(
            run.hypotheses(phase, "test"), [{"id": "u", "ref": "one two three four", "hyp": hyp}]
        )
    count_utterances(run, test=1)
    page = show(page_of(folder))
    lines = page.locator("#cards .card .caption")
    assert [" ".join(one.split()) for one in lines.all_inner_texts()] == [
        "one won two three four",
        "one two three four",
        "one two uh three four",
    ]
    assert lines.nth(0).locator(".sub del").inner_text() == "one"
    assert lines.nth(0).locator(".sub ins").inner_text() == "won"
    assert lines.nth(0).locator("del.gone").all_inner_texts() == ["three"]
    assert lines.nth(1).locator("del.gone").count() == 4
    assert lines.nth(2).locator("ins.added").inner_text() == "uh"
    line = "one => getComputedStyle(one).textDecorationLine"
    assert lines.nth(0).locator("del.gone").evaluate(line) == "line-through"
    assert lines.nth(0).locator(".sub ins").evaluate(line) == "underline"
    plus = "one => getComputedStyle(one, '::before').content"
    assert lines.nth(2).locator("ins.added").evaluate(plus) == '"+"'
    assert page.locator("#cards .score").all_inner_texts() == ["2 of 4 wrong", "4 of 4 wrong", "1 of 4 wrong"]
    assert page.locator("#cards .badge").inner_text() == "▲ −1 error"


def test_utterances_are_sorted_and_found(show, one_html):
    page = show(one_html)
    group = data_of(one_html)["items"][0]
    view = next(one for one in group["views"] if one["run"] == data_of(one_html)["default_run"])
    first, last = view["columns"][0][1], view["columns"][-1][1]
    errors = {
        one["id"]: [one["texts"][one["said"][column]][2] for column in (first, last)]
        for one in group["items"]
    }
    words = {one["id"]: len(one["refs"][0].split()) for one in group["items"]}
    assert cards(page) == sorted(errors, key=lambda id_: (errors[id_][1] - errors[id_][0], id_))
    page.locator("#sort").select_option("loss")
    assert cards(page) == sorted(errors, key=lambda id_: (errors[id_][0] - errors[id_][1], id_))
    page.locator("#sort").select_option("score")
    assert cards(page) == sorted(errors, key=lambda id_: (-errors[id_][1] / words[id_], id_))
    page.locator("#sort").select_option("id")
    assert cards(page) == sorted(errors)
    page.locator("#find").fill("ENTER seven")
    assert cards(page) == ["u06", "u13", "u20", "u27", "u34", "u41"]
    assert page.locator("#shown").inner_text() == "6 of 42 utterances"
    page.locator("#find").fill("zebra")
    assert cards(page) == [] and page.locator("#nothing").is_visible()
    page.locator("#find").fill("")
    page.locator("#changed").check()
    columns = [number for _, number in view["columns"]]
    changing = {one["id"] for one in group["items"] if len({one["said"][number] for number in columns}) > 1}
    assert set(cards(page)) == changing and len(changing) < 42


def test_long_lists_are_shown_in_parts(show, make_comparison):
    folder = make_comparison(seeds=[0], arms=["dsd"])
    for path in (folder / "seed-0/dsd/hyps").iterdir():
        write_json_lines(path, [{"id": f"u{n:03d}", "ref": "a b", "hyp": "a"} for n in range(130)])
    count_utterances(RunFolder(folder / "seed-0/dsd"), dev=130, test=130)
    page = show(page_of(folder))
    assert len(cards(page)) == 60
    page.get_by_role("button", name="Show 60 more of 70").click()
    page.get_by_role("button", name="Show 10 more of 10").click()
    assert cards(page) == [f"u{n:03d}" for n in range(130)]
    assert not page.locator("#more").is_visible()


def test_captions_and_pictures(show, make_comparison):
    folder = make_comparison(kind="captions", seeds=[0])
    run = RunFolder(folder / "seed-0/dsdsd")
    Image.new("RGB", (640, 480), (200, 30, 30)).save(run.path / "photo.png")
    write_json_lines(run.images, [{"id": f"{n:02d}.png", "path": "photo.png"} for n in range(42)])
    page = show(page_of(folder))
    first = page.locator("#cards .card").first
    assert first.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 320
    assert first.locator("mark").count() > 0 and first.locator("svg.bar").count() == 5
    assert first.locator(".badge").inner_text().startswith("▲ +")
    page.locator("#view").select_option(label="last phase of every arm, seed 0")
    assert page.locator("#cards .card").first.locator(".phase .name").all_inner_texts()[-1] == "DSDSD"
    first.locator("summary").click()
    assert first.locator("details li").first.is_visible()


def test_images_and_what_each_phase_called_them(show, make_comparison):
    folder = make_comparison(kind="classification", seeds=[0])
    run = RunFolder(folder / "seed-0/dsdsd")
    (run.path / "photos").mkdir()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(run.path / "photos" / "one.png")
    rows = [row["id"] for row in read_json_lines(run.hypotheses("Dense Iter 2", "test"))]
    write_json_lines(run.images, [{"id": id_, "path": "photos/one.png"} for id_ in rows])
    page = show(page_of(folder))
    first = page.locator("#cards .card").first
    assert first.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 32
    assert first.locator(".badge").inner_text() == "▲ put right"
    assert first.locator(".phase .score").all_inner_texts()[:: NUM_PHASES - 1] == ["wrong", "right"]
    right = first.locator(".reference").inner_text().removeprefix("class ")
    assert first.locator(".caption").all_inner_texts()[-1] == right == f"class {cards(page)[0][11]}"
    assert first.locator("mark, svg.bar").count() == 0
    page.locator("#sort").select_option("loss")
    wrong = page.locator("#cards .card").first.locator(".phase .score").all_inner_texts()
    assert wrong[-1] == "wrong"


def test_names_of_classes_keep_their_spaces_and_no_class_is_said_in_words(show, make_arm):
    run = make_arm("run", "dsd", kind="classification")
    for record in run.read_phases():
        path = run.hypotheses(record["name"], "test")
        rows = [
            {**row, "ref": row["ref"].replace(" ", "  "), "hyp": row["hyp"].replace(" ", "  ")}
            for row in read_json_lines(path)
        ]
        write_json_lines(path, [{**rows[0], "hyp": ""}, *rows[1:]])
    page = show(page_of(run.path))
    page.locator("#find").fill("test/class 0/00.png")
    [card] = page.locator("#cards .card").all()
    assert card.locator(".reference").inner_text() == "class class  0"
    assert set(card.locator(".caption").all_inner_texts()) == {"(no class: the network gave no numbers)"}
    page.locator("#find").fill("test/class 1/01.png")
    [card] = page.locator("#cards .card").all()
    assert {text[:7] for text in card.locator(".caption").all_inner_texts()} == {"class  "}


def test_every_kind_on_one_page(show, comparison, caption_comparison, class_comparison):
    folders = [one / "seed-0/dsd" for one in (comparison, caption_comparison, class_comparison)]
    page = show(page_of(*folders))
    kinds = (("Dev WER (%)", "utterances"), ("Dev BLEU-4", "images"), ("Dev Top-1 error (%)", "images"))
    for number, (title, noun) in enumerate(kinds):
        page.locator("#run").select_option(value=str(number))
        page.wait_for_timeout(500)
        assert page.locator(".double figure:visible figcaption").all_inner_texts() == ["Loss", title]
        assert page.locator(".double figure:visible .chart svg").count() == 2
        assert page.locator("#shown").inner_text() == f"42 {noun}"
        assert page.locator("#items .legend:visible").count() == 1


def test_only_after_the_first_phase(show, one_html):
    page = show(one_html)
    names = "all => all.map(one => one.textContent)"
    bands = ".double .chart .mark-text text"
    assert page.eval_on_selector_all(bands, names).count("DenseIter 0") == 2
    page.locator("#zoom").check()
    page.wait_for_timeout(800)
    shown = page.eval_on_selector_all(bands, names)
    assert shown.count("DenseIter 0") == 0 and shown.count("DenseIter 2") == 2


def colour(page, selector: str, name: str) -> float:
    """Brightness, 0 to 255."""
    rgb = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{name}")
    return sum(map(float, re.findall(r"[\d.]+", rgb)[:3])) / 3


def test_light_and_dark_without_a_reload(show, one_html):
    page = show(one_html, color_scheme="light")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        is_dark = scheme == "dark"
        for selector in ("body", ".panel", ".card", "nav.parts", "#sort", ".sub", ".gone"):
            assert (colour(page, selector, "backgroundColor") < 80) == is_dark, selector
            assert (colour(page, selector, "color") > 120) == is_dark, selector
        for selector, name in ((".chart .role-axis-label text", "fill"), (".key path", "stroke")):
            assert (colour(page, selector, name) > 140) == is_dark, selector


def test_a_phone_scrolls_down_only(show, html):
    page = show(html, viewport={"width": 360, "height": 780})
    for label in ("DSDSD, seed 0", "LLR, seed 1"):
        page.locator("#run").select_option(label=label)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#plan").scroll_into_view_if_needed()
    assert page.locator("nav.parts").bounding_box()["y"] == pytest.approx(0, abs=1)
    assert page.locator("nav.parts").bounding_box()["height"] < 70
    widths = page.eval_on_selector_all(
        ".chart svg", "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert max(widths) <= 360 and min(width for width in widths if width) > 200


def test_a_run_with_a_long_name_fits_a_phone(show, make_arm):
    folder = make_arm("llr_0.002-0.00125-0.00075-0.00025-7.5e-05-and_more_of_it", "dsdsd")
    page = show(page_of(folder.path), viewport={"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_captions_and_their_signature_fit_a_phone(show, caption_comparison):
    page = show(page_of(caption_comparison), viewport={"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_keyboard_reaches_what_can_be_chosen(show, one_html):
    page = show(one_html)
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        now = "(one => one.getAttribute('href') || one.id || one.className)(document.activeElement)"
        reached.append(page.evaluate(now))
    assert reached == ["#phases", "#curves", "#weights", "#items", "#plan", "#runs", "scroll"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.eval_on_selector_all(
        ".chart", "all => all.every(one => one.getAttribute('aria-label').length > 20)"
    )


def test_print_leaves_the_controls_out(show, one_html):
    page = show(one_html, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for selector in ("nav.parts", ".controls", "audio"):
        assert not page.locator(selector).first.is_visible(), selector
    assert page.locator(".chart svg").first.is_visible()
    assert colour(page, "body", "color") < 80  # black on white, also from a dark screen
    assert colour(page, ".chart .role-axis-label text", "fill") < 140


def test_print_unfolds_the_pairs(show, html):
    page = show(html)
    pairs = page.locator("details.panel table").first
    assert not pairs.is_visible()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert pairs.is_visible()


def test_nothing_of_a_run_is_executed(show, make_comparison):
    page = show(page_of(nasty_comparison(make_comparison)))
    assert page.evaluate("window.pwned") is None
    assert NASTY in cards(page)
    card = page.locator("#cards .card").filter(has=page.locator("h3", has_text="onerror"))
    assert NASTY in card.locator(".caption").first.inner_text().replace("\n", "")
    assert (
        page.locator("img").count() == 0 and page.locator("b").count() == 5
    )  # the letters of the five moments
    page.locator("#layer").select_option(index=0)


def test_without_scripts_the_tables_can_be_read(open_page, html):
    page = open_page(html, java_script_enabled=False)
    assert page.locator("noscript").first.is_visible()
    assert not page.locator("#item-controls").is_visible() and not page.locator("#curves").is_visible()
    assert page.locator("#phases .of-run").count() == 20 and page.locator("#phases .of-run").last.is_visible()
