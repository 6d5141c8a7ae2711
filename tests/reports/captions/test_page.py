"""The page of captions, as text and in a real browser."""

import base64
import gzip
import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from seqdsd.records import read_json_lines, write_json_lines
from seqdsd.reports.captions.changes import Caption, ImageCaptions, in_order, read_run_captions
from seqdsd.reports.captions.page import caption_page, gain_bins, main

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[3] / "../shared/data")) / "flickr8k"
NASTY = "<script>window.pwned = 1</script>"
NASTY_NAME = 'x" onerror="window.pwned = 1"><img src=q onerror="window.pwned = 1">.jpg'


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def text_of(html: str) -> str:
    without = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", without).split())


# As text


def test_the_page_names_the_run_and_how_it_came_about(caption_run):
    said = text_of(caption_page(caption_run).html)
    for part in ("4 test images, 3 phases", "Command python -m seqdsd.recipes.neuraltalk --seed 7"):
        assert part in said
    assert "Seed 7 seqdsd 0.1.0 Commit 789f74b51f27" in said


def test_table_5(caption_run):
    html = caption_page(caption_run).html
    rows = [text_of(row) for row in re.findall(r"<tr>.*?</tr>", html)]
    # Printed in the paper: the improvements, from NeuralTalk's BLEU. Ours beside it is 1 point lower in each phase.
    assert rows[-5:] == [
        "Dense Iter 0 56.2 37.6 24.4 15.8 57.2 38.6 25.4 16.8 0% 19 0.01",
        "Sparse Iter 1 57.4 38.7 25.3 16.5 58.4 39.7 26.3 17.5 80% 10 0.001",
        "Dense Iter 1 58.2 39.7 26.4 17.5 59.2 40.7 27.4 18.5 0% 6 0.0001",
        "Improve (abs) 2.0 2.1 2.0 1.7 2.0 2.1 2.0 1.7 - - -",
        "Improve (rel) 3.6% 5.6% 8.2% 10.8% 3.5% 5.4% 7.9% 10.1% - - -",
    ]


def test_a_record_with_one_kind_of_bleu(caption_run):
    records = caption_run.read_phases()
    for record in records:
        scores = {name: one for name, one in record["test"].items() if "bleu" not in name}
        record["test"] = scores | {"bleu1": 50.0, "bleu2": 0.0, "bleu3": 0.0, "bleu4": 0.0}
    caption_run.write_phases(records)
    rows = [text_of(row) for row in re.findall(r"<tr>.*?</tr>", caption_page(caption_run).html)]
    assert rows[-3:] == [
        "Dense Iter 1 50.0 0.0 0.0 0.0 0% 6 0.0001",
        "Improve (abs) 0.0 0.0 0.0 0.0 - - -",
        "Improve (rel) 0.0% - - - - - -",
    ]


def test_one_phase_has_no_improvement(caption_run):
    caption_run.write_phases(caption_run.read_phases()[:1])
    said = text_of(caption_page(caption_run).html)
    assert "1 phase." in said and "Improve" not in said


def test_a_run_without_its_config(caption_run):
    caption_run.config.unlink()
    assert "Command" not in text_of(caption_page(caption_run).html)
    caption_run.config.write_text("seed = = 7")
    with pytest.raises(ValueError, match="config.toml: not a readable TOML file"):
        caption_page(caption_run)


def test_markup_in_captions_names_and_commands_is_text(make_caption_run):
    run = make_caption_run({NASTY_NAME: ([NASTY], [NASTY, "a dog", f"a {NASTY}"])}, name="<b>run")
    run.config.write_text(f"[provenance]\ncommand = '</style>{NASTY}'\nseed = '{NASTY}'\n")
    html = caption_page(run).html
    assert NASTY not in html and NASTY_NAME not in html and "<b>run" not in html
    assert html.count("<script>") == html.count("</style>") == 1
    assert "&lt;script&gt;window.pwned = 1&lt;/script&gt;" in html


def test_the_limit_keeps_both_ends(caption_run):
    page = caption_page(caption_run, limit=2)
    assert re.findall(r'data-id="(.*?)"', page.html) == ["gain.jpg", "loss.jpg"]
    assert "Shown are 2 of 4 images" in page.html
    assert caption_page(caption_run, limit=None).num_shown == 4
    with pytest.raises(ValueError, match="at least 1, got 0"):
        caption_page(caption_run, limit=0)


def image_with_gain(gain: float) -> ImageCaptions:
    first, last = (Caption("p", "a", bleu, (), 0) for bleu in (50.0 - gain / 2, 50.0 + gain / 2))
    return ImageCaptions("x", None, ("a",), (first, last))


def test_gains_in_bins():
    gains = [0.0, 0.04, 0.06, 10.0, 10.1, -0.06, -25.0]
    bins = gain_bins([image_with_gain(gain) for gain in gains])
    assert [(one.label, one.trend, one.count) for one in bins] == [
        ("20 to 30 points lost", "worse", 1),
        ("10 to 20 points lost", "worse", 0),
        ("0 to 10 points lost", "worse", 1),
        ("no change", "same", 2),
        ("0 to 10 points gained", "improved", 2),
        ("10 to 20 points gained", "improved", 1),
        ("20 to 30 points gained", "improved", 0),
    ]
    assert [one.count for one in gain_bins([image_with_gain(0.0)])] == [1]
    assert len(gain_bins([image_with_gain(100.00000000000004)])) == 21


def test_images_are_embedded_or_linked(caption_run):
    embedded = caption_page(caption_run)
    data = re.findall(r'<img src="data:image/jpeg;base64,(.*?)"', embedded.html)
    assert len(data) == 4 and embedded.num_missing == 0
    assert decoded(base64.b64decode(data[0])).size == (48, 32)
    linked = caption_page(caption_run, link=True)
    assert "base64," not in linked.html
    assert re.findall(r'<img src="(.*?)"', linked.html)[0] == (caption_run.path / "drawn/0.png").as_uri()


def test_missing_and_damaged_images_get_a_placeholder(caption_run):
    (caption_run.path / "drawn/0.png").unlink()
    (caption_run.path / "drawn/1.png").write_text("in disguise")
    page = caption_page(caption_run)
    assert page.num_missing == 2
    assert re.findall(r'class="placeholder">(.*?)<', page.html) == ["image not found", "image cannot be read"]


def test_pictures_outside_the_corpus_are_left_out_and_said_to_be(caption_run, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    rows = list(read_json_lines(caption_run.images))
    rows[1]["path"] = str(tmp_path / "private.png")
    write_json_lines(caption_run.images, rows)
    page = caption_page(caption_run)
    assert (page.num_missing, page.num_outside) == (1, 1)
    assert re.findall(r'class="placeholder">(.*?)<', page.html) == ["image lies outside the corpus’ folder"]
    assert caption_page(caption_run, link=True).html.count("private.png") == 0
    main([str(caption_run.path)])
    said = capsys.readouterr().out
    assert f"1 pictures lie outside the folder of the others ({caption_run.path}) and were left out" in said
    assert "could not be found" not in said


# The command


def test_the_command_writes_into_the_run_and_says_so(caption_run, capsys):
    main([str(caption_run.path)])
    out = caption_run.path / "captions.html"
    size_kb = round(len(out.read_bytes()) / 1000)
    assert capsys.readouterr().out == f"{out}: 4 test images, {size_kb} kB; open it in a browser\n"
    assert out.read_text(encoding="utf-8") == caption_page(caption_run).html


def test_the_command_takes_its_flags(caption_run, tmp_path, capsys):
    out, images = tmp_path / "new" / "page.html", tmp_path / "images"
    images.mkdir()
    main(
        [str(caption_run.path), "--out", str(out), "--images", str(images), "--split", "dev", "--limit", "3"]
    )
    said = capsys.readouterr().out
    assert f"{out}: 3 dev images" in said
    assert "3 pictures could not be found or read; --images FOLDER" in said
    assert "Shown are 3 of 4 images" in out.read_text(encoding="utf-8")
    main([str(caption_run.path), "--all", "--link"])
    assert "4 test images" in capsys.readouterr().out


def test_the_command_prints_to_the_terminal_only(caption_run, capsys):
    main([str(caption_run.path), "--terminal", "1"])
    said = capsys.readouterr().out
    assert "gain.jpg" in said and "loss.jpg" not in said
    assert not (caption_run.path / "captions.html").exists()
    with pytest.raises(SystemExit, match="2"):
        main([str(caption_run.path), "--terminal", "1", "--link"])
    assert "--terminal writes no page" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--split", "train"], ["--limit", "0"], ["--out", "."]])
def test_the_command_fails_in_one_line(caption_run, flags, capsys):
    with pytest.raises(SystemExit, match="1"):
        main([str(caption_run.path), *flags])
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


# In a browser


def visible_ids(page) -> list[str]:
    return page.eval_on_selector_all(".card:not([hidden])", "cards => cards.map(card => card.dataset.id)")


def test_images_are_decoded(open_page, caption_run):
    for link in (False, True):
        page = open_page(caption_page(caption_run, link=link).html)
        page.wait_for_function("[...document.images].every(image => image.complete)")
        widths = page.eval_on_selector_all(".card img", "images => images.map(image => image.naturalWidth)")
        assert widths == [48] * 4


def test_sorting_and_filtering(open_page, caption_run):
    page = open_page(caption_page(caption_run).html)
    images = read_run_captions(caption_run).images
    for order in ("loss", "changes", "id", "gain"):
        page.get_by_label("Sort by").select_option(order)
        assert visible_ids(page) == [image.id for image in in_order(images, order)]
    page.get_by_label("only changed").check()
    assert visible_ids(page) == ["gain.jpg", "swap.jpg", "loss.jpg"]
    find = page.get_by_label("Find")
    find.fill("WALL swing")  # one word in a caption, one in a reference
    assert visible_ids(page) == ["gain.jpg"]
    assert page.get_by_role("status").inner_text() == "1 of 4 images"
    find.fill("swap.jpg")
    assert visible_ids(page) == ["swap.jpg"]
    find.fill("zebra")
    assert visible_ids(page) == [] and page.locator("#nothing").is_visible()
    find.fill("")
    page.get_by_label("only changed").uncheck()
    assert len(visible_ids(page)) == 4 and not page.locator("#nothing").is_visible()


def test_changed_words_are_marked_not_by_colour_alone(open_page, caption_run):
    page = open_page(caption_page(caption_run).html)
    card = page.locator('[data-id="gain.jpg"]')
    assert card.locator("mark").all_inner_texts() == ["girl", "in a pink dress", "swing"]
    assert card.locator(".gap").get_attribute("title") == "dropped: standing"
    assert card.locator(".caption").nth(1).inner_text() == "a girl is […] on a rock wall"
    style = "mark => [getComputedStyle(mark).textDecorationLine, Number(getComputedStyle(mark).fontWeight)]"
    line, weight = card.locator("mark").first.evaluate(style)
    assert line == "underline" and weight >= 600
    assert card.locator(".badge").inner_text().startswith("▲ +")
    assert page.locator('[data-id="loss.jpg"] .badge').inner_text().startswith("▼ −")


def test_references_open_by_mouse_and_by_keyboard(open_page, caption_run):
    page = open_page(caption_page(caption_run).html)
    reference = page.get_by_text("a child swings", exact=True)
    assert not reference.is_visible()
    page.get_by_label("show references").check()
    assert reference.is_visible()
    page.get_by_label("show references").uncheck()
    page.get_by_label("show references").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert reference.is_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_keyboard_reaches_every_control(open_page, caption_run):
    page = open_page(caption_page(caption_run).html)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached == ["scroll", "sort", "find", "changed", "refs"]


def brightness(page, selector: str, colour: str) -> float:
    rgb = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{colour}")
    return sum(map(int, re.findall(r"\d+", rgb)[:3])) / 3


def test_light_and_dark(open_page, caption_run):
    html = caption_page(caption_run).html
    for scheme in ("light", "dark"):
        page = open_page(html, color_scheme=scheme)
        is_dark = scheme == "dark"
        for selector in ("body", ".card", ".panel", "select", "mark"):
            assert (brightness(page, selector, "backgroundColor") < 80) == is_dark, selector
            assert (brightness(page, selector, "color") > 128) == is_dark, selector
        corner = decoded(page.screenshot()).convert("L").getpixel((2, 2))
        assert (corner < 60) if is_dark else (corner > 220)


def test_a_phone_scrolls_down_only(open_page, caption_run):
    page = open_page(caption_page(caption_run).html, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture, words = (page.locator(f".card {part}").first.bounding_box() for part in (".picture", ".words"))
    assert picture["y"] + picture["height"] <= words["y"]


def test_print_leaves_the_controls_out(open_page, caption_run):
    page = open_page(caption_page(caption_run).html)
    assert page.locator("#controls").is_visible()
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()


def test_nothing_of_a_run_is_executed(open_page, make_caption_run):
    run = make_caption_run({NASTY_NAME: ([NASTY], [NASTY, "a dog", f"a {NASTY}"])}, name="<b>run")
    page = open_page(caption_page(run).html)
    assert page.evaluate("window.pwned") is None
    assert visible_ids(page) == [NASTY_NAME]
    assert page.locator("h1").inner_text() == "<b>run"
    assert page.locator(".caption").first.inner_text() == NASTY
    assert page.locator("script").count() == 1 and page.locator(".card img").count() == 1


def test_without_scripts_the_page_can_be_read(open_page, caption_run):
    page = open_page(caption_page(caption_run).html, java_script_enabled=False)
    assert not page.locator("#controls").is_visible()
    assert page.locator(".card").count() == 4 and page.locator(".card").first.is_visible()


def test_real_photos(open_page, make_caption_run):
    if not DATA.is_dir():
        pytest.skip("Flickr8k is not here: set SEQDSD_DATA to the folder that holds flickr8k/")
    with gzip.open(DATA / "dataset_flickr8k.json.gz") as file:
        images = [one for one in json.load(file)["images"] if one["split"] == "test"][:200]
    refs = {one["filename"]: [" ".join(said["tokens"]) for said in one["sentences"]] for one in images}
    run = make_caption_run({id_: (said[1:], [said[0], said[1], said[1]]) for id_, said in refs.items()})
    made = caption_page(run, images=DATA / "images")
    assert (made.num_shown, made.num_missing) == (200, 0)
    assert len(made.html) < 10e6
    page = open_page(made.html)
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator(".card img").count() == 200
    # Each second caption is one of the references.
    scores = page.locator(".card li:nth-child(2) .score").all_inner_texts()
    assert set(scores) == {"100.0"}
