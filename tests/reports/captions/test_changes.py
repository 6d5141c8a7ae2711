"""Reading a captioning run: words and gains counted by hand, and damage that must be named."""

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.captions.changes import both_ends, compare_words, in_order, read_run_captions
from seqdsd.reports.captions.terminal import compare_in_terminal

REPOSITORY = Path(__file__).parents[3]


def ids(images) -> list[str]:
    return [image.id for image in images]


def marks(before: str, now: str) -> str:
    form = {"kept": "{}", "new": "<{}>", "dropped": "-{}-"}
    return " ".join(form[span.kind].format(span.text) for span in compare_words(before, now)[0])


@pytest.mark.parametrize(
    ("before", "now", "marked", "num_changes"),
    [
        # DSD paper, appendix B.
        (
            "a man in a red jacket is standing in front of a white building .",
            "a man in a black jacket is standing in front of a brick wall .",
            "a man in a <black> jacket is standing in front of a <brick wall> .",
            3,
        ),
        ("a dog runs", "a white and brown dog runs", "a <white and brown> dog runs", 3),
        ("a man in a red shirt sits", "a man sits", "a man -in a red shirt- sits", 4),
        ("two boys", "two boys", "two boys", 0),
        ("", "a dog", "<a dog>", 2),
        ("a dog", "", "-a dog-", 2),
        ("", "", "", 0),
    ],
)
def test_changed_words(before, now, marked, num_changes):
    assert marks(before, now) == marked
    assert compare_words(before, now)[1] == num_changes


sentences = st.lists(st.sampled_from("a dog cat the runs".split()), max_size=12).map(" ".join)


@given(sentences, sentences)
def test_spans_are_the_caption(before, now):
    spans, num_changes = compare_words(before, now)
    assert " ".join(span.text for span in spans if span.kind != "dropped") == now
    old = before.split()
    for span in spans:
        if span.kind != "new":
            words = span.text.split()
            assert any(old[i : i + len(words)] == words for i in range(len(old) + 1))
    assert (num_changes == 0) == (before == now)


def test_a_run_is_read(caption_run):
    run = read_run_captions(caption_run)
    assert (run.name, run.split, ids(run.images)) == (
        "run",
        "test",
        ["gain.jpg", "loss.jpg", "same.jpg", "swap.jpg"],
    )
    gain, loss, same, swap = run.images
    assert [caption.phase for caption in gain.captions] == ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1"]
    assert gain.refs == ("a girl in a pink dress is on a swing", "a child swings")
    assert gain.captions[2].bleu == pytest.approx(100)
    assert 0 < gain.captions[0].bleu < gain.captions[1].bleu < 100
    assert loss.captions[0].bleu == pytest.approx(100)
    assert gain.gain == gain.captions[2].bleu - gain.captions[0].bleu > 0 > loss.gain
    assert [image.trend for image in run.images] == ["improved", "worse", "same", "same"]
    assert [run.count(trend) for trend in ("improved", "worse", "same")] == [1, 1, 2]
    assert (same.num_changes, swap.num_changes) == (0, 2)
    assert loss.num_changes == 3 + 5  # "through the grass" goes; "a cat sleeps on the sofa" keeps "a"


def test_the_first_phase_has_no_marks(caption_run):
    for image in read_run_captions(caption_run).images:
        first = image.captions[0]
        assert [(span.kind, span.text) for span in first.spans] == [("kept", first.text)]


def test_images_come_from_the_list_or_a_folder(caption_run, tmp_path):
    images = read_run_captions(caption_run).images
    assert [image.image for image in images] == [caption_run.path / f"drawn/{n}.png" for n in range(4)]
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "loss.jpg").touch()
    images = read_run_captions(caption_run, images=moved).images
    assert [image.image for image in images] == [None, moved / "loss.jpg", None, None]
    (caption_run.path / "images.jsonl").unlink()
    assert all(image.image is None for image in read_run_captions(caption_run).images)
    with pytest.raises(ValueError, match="nowhere: no such folder of images; correct --images"):
        read_run_captions(caption_run, images=tmp_path / "nowhere")


def test_the_terminal_gets_no_control_characters(make_caption_run):
    evil = "a \x1b]0;x\x07 dog \x9b31m"
    run = make_caption_run({"\x1b[2J.jpg": ([evil], [evil, f"{evil} runs", "a"])})
    console = Console(file=io.StringIO(), width=200)
    console.print(compare_in_terminal(read_run_captions(run), 1))
    said = console.file.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert r"\x1b[2J.jpg" in said and r"\x1b]0;x\x07" in said


def test_captions_with_half_a_character_are_refused(caption_run):
    path = caption_run.hypotheses("Dense Iter 0", "test")
    path.write_text(path.read_text().replace("two boys playing football", "two \\ud800"))
    with pytest.raises(ValueError, match=r"dense-iter-0\.test\.jsonl:3: damaged record"):
        read_run_captions(caption_run)


def test_images_of_a_corpus_elsewhere(caption_run, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "gain.jpg").touch()
    rows = [{"id": id_, "path": str(corpus / id_)} for id_ in ("gain.jpg", "loss.jpg")]
    write_json_lines(caption_run.path / "images.jsonl", rows)
    captions = read_run_captions(caption_run)
    assert [image.image for image in captions.images] == [corpus / "gain.jpg", None, None, None]
    assert (captions.picture_folder, captions.outside) == (corpus, frozenset())


def test_no_image_outside_the_corpus_is_shown(caption_run, tmp_path):
    corpus, private = tmp_path / "corpus", tmp_path / "private.png"
    corpus.mkdir()
    private.touch()
    for name in ("gain.jpg", "swap.jpg"):
        (corpus / name).touch()
    (corpus / "loss.jpg").symlink_to(private)
    (corpus / "same.jpg").symlink_to("gain.jpg")
    paths = {id_: str(corpus / id_) for id_ in ("gain.jpg", "loss.jpg", "same.jpg")}
    paths["swap.jpg"] = str(private)
    write_json_lines(caption_run.path / "images.jsonl", [{"id": id_, "path": paths[id_]} for id_ in paths])
    captions = read_run_captions(caption_run)
    shown = {image.id: image.image for image in captions.images}
    assert shown == {
        "gain.jpg": corpus / "gain.jpg",
        "same.jpg": corpus / "same.jpg",
        "loss.jpg": None,
        "swap.jpg": None,
    }
    assert captions.outside == {"loss.jpg", "swap.jpg"}
    assert read_run_captions(caption_run, images=corpus).outside == {"loss.jpg"}


def test_the_whole_machine_is_no_corpus(make_caption_run, tmp_path):
    """By ids that are whole paths a folder from somebody else would have all files shown."""
    secret = tmp_path / "secret.jpg"
    run = make_caption_run({str(secret)[1:]: (["a dog"], ["a dog"] * 3)})
    (run.path / "drawn" / "0.png").rename(secret)
    write_json_lines(run.images, [{"id": str(secret)[1:], "path": str(secret)}])
    captions = read_run_captions(run)
    assert captions.outside == {str(secret)[1:]} and captions.images[0].image is None


def test_ids_lead_to_no_image_outside_the_folder_named(make_caption_run, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "private.png").touch()
    ids = ["../private.png", str(tmp_path / "private.png"), "nul\0.png", "lone\udcff.png"]
    run = make_caption_run({id_: (["a"], ["a", "b", "c"]) for id_ in ids[:3]})
    captions = read_run_captions(run, images=tmp_path / "images")
    assert all(image.image is None for image in captions.images)
    assert captions.outside == set(ids[:2])


def test_orders(caption_run):
    images = read_run_captions(caption_run).images
    assert ids(in_order(images, "gain")) == ["gain.jpg", "same.jpg", "swap.jpg", "loss.jpg"]
    assert ids(in_order(images, "loss")) == ["loss.jpg", "same.jpg", "swap.jpg", "gain.jpg"]
    assert ids(in_order(images, "changes"))[2:] == ["swap.jpg", "same.jpg"]
    assert ids(in_order(images[::-1], "id")) == ids(images)


def test_a_choice_has_both_ends(caption_run):
    images = read_run_captions(caption_run).images
    assert ids(both_ends(images, 1)) == ["gain.jpg"]
    assert ids(both_ends(images, 2)) == ["gain.jpg", "loss.jpg"]
    assert ids(both_ends(images, 3)) == ["gain.jpg", "same.jpg", "loss.jpg"]
    assert ids(both_ends(images, 4)) == ids(both_ends(images, 99)) == ids(in_order(images, "gain"))


def test_a_run_that_still_trains(caption_run):
    caption_run.write_phases(caption_run.read_phases()[:1])
    images = read_run_captions(caption_run).images
    assert {(len(image.captions), image.gain, image.num_changes) for image in images} == {(1, 0.0, 0)}
    caption_run.write_phases([])
    with pytest.raises(ValueError, match="wait until the run has finished its first phase"):
        read_run_captions(caption_run)


def test_another_version_s_folder_is_refused(caption_run):
    text = caption_run.config.read_text()
    caption_run.config.write_text(text.replace("[provenance]\n", "[provenance]\nformat = 99\n"))
    with pytest.raises(
        ValueError, match=r"config\.toml: .* another version of seqdsd \(format 99, this one reads 1"
    ):
        read_run_captions(caption_run)
    caption_run.config.write_text("provenance = 3\n")
    with pytest.raises(
        ValueError, match=r"config\.toml: \[provenance\]: expected `object`, got `int`; bring the file back"
    ):
        read_run_captions(caption_run)


def test_a_speech_run_is_refused():
    speech = RunFolder(REPOSITORY / "recipes/an4/records/ds1-dsd-seed0")
    with pytest.raises(ValueError, match="ds1-dsd-seed0: a speech run .* captioning runs only"):
        read_run_captions(speech)


def test_a_classifiers_run_is_refused(class_comparison):
    with pytest.raises(ValueError, match="a classification run .* Top-1 error.* captioning runs only"):
        read_run_captions(RunFolder(class_comparison / "seed-0" / "dsd"))


def test_another_split(caption_run):
    assert read_run_captions(caption_run, split="dev").split == "dev"
    with pytest.raises(
        ValueError, match="'Dense Iter 0' was not scored on 'train', but on dev, test; .*--split"
    ):
        read_run_captions(caption_run, split="train")


def test_missing_hypotheses_name_the_phase(caption_run):
    caption_run.hypotheses("Sparse Iter 1", "test").unlink()
    with pytest.raises(ValueError, match=r"sparse-iter-1\.test\.jsonl: missing, .* phase 'Sparse Iter 1'"):
        read_run_captions(caption_run)


WHOLE = {"id": "loss.jpg", "refs": ["a dog"], "hyp": "a dog"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "loss.jpg", "refs": ["a d', "damaged record"),
        ("[1, 2]", "expected `object`, got `array`"),
        (json.dumps({**WHOLE, "hyp": None}), "hyp: expected `str`, got `null`"),
        (json.dumps({**WHOLE, "id": 3}), "id: expected `str`, got `int`"),
        (json.dumps({**WHOLE, "refs": []}), "refs: expected `array` of length >= 1"),
        (json.dumps({**WHOLE, "refs": "a dog"}), "refs: expected `array`, got `str`"),
        (json.dumps({"id": "x", "ref": "a dog", "hyp": "a dog"}), "no 'refs' that is a list"),
        (json.dumps({**WHOLE, "id": "gain.jpg"}), "image 'gain.jpg' a second time"),
    ],
)
def test_damaged_hypotheses_name_the_line(caption_run, line, problem):
    path = caption_run.hypotheses("Dense Iter 1", "test")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=rf"dense-iter-1\.test\.jsonl:2: {re.escape(problem)}"):
        read_run_captions(caption_run)


def test_captions_of_which_some_are_lost(caption_run):
    """In every phase, so that they still agree with each other."""
    records = caption_run.read_phases()
    caption_run.write_phases({**one, "test": {**one["test"], "images": 4}} for one in records)
    assert len(read_run_captions(caption_run).images) == 4
    for record in records:
        path = caption_run.hypotheses(record["name"], "test")
        path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(
        ValueError, match=r"dense-iter-0\.test\.jsonl: 3 images, but .* scored on 4; bring the"
    ):
        read_run_captions(caption_run)


def test_hypotheses_that_are_no_text_or_empty(caption_run):
    path = caption_run.hypotheses("Dense Iter 1", "test")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"dense-iter-1\.test\.jsonl:1: not UTF-8 text"):
        read_run_captions(caption_run)
    path.write_text("")
    with pytest.raises(ValueError, match=r"dense-iter-1\.test\.jsonl: empty, .* 'Dense Iter 1'"):
        read_run_captions(caption_run)


def test_phases_of_other_images_are_refused(caption_run):
    path = caption_run.hypotheses("Sparse Iter 1", "test")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"sparse-iter-1\.test\.jsonl: lacks image 'gain.jpg'"):
        read_run_captions(caption_run)
    path.write_text("".join(lines) + json.dumps({**WHOLE, "id": "more.jpg"}) + "\n")
    with pytest.raises(ValueError, match="alone has image 'more.jpg'"):
        read_run_captions(caption_run)
    path.write_text("".join([*lines[:3], json.dumps({**WHOLE, "id": "swap.jpg"})]))
    with pytest.raises(ValueError, match="other references of 'swap.jpg'"):
        read_run_captions(caption_run)


def test_a_damaged_list_of_images(caption_run):
    (caption_run.path / "images.jsonl").write_text('{"id": "gain.jpg"}\n')
    with pytest.raises(ValueError, match=r"images\.jsonl:1: object missing required field `path`.*--images"):
        read_run_captions(caption_run)


def printed(renderable, **settings) -> str:
    out = io.StringIO()
    Console(file=out, width=120, **settings).print(renderable)
    return out.getvalue()


def test_the_terminal_shows_both_ends(caption_run):
    said = printed(compare_in_terminal(read_run_captions(caption_run), 2))
    assert "sentence BLEU on 4 test images: 1 gained, 1 lost, 2 stayed" in said
    assert said.index("gain.jpg") < said.index("loss.jpg")
    assert "same.jpg" not in said and "swap.jpg" not in said
    lines = [re.split(r"  +", line.strip()) for line in said.splitlines()]
    assert ["reference", "a girl in a pink dress is on a swing"] in lines
    assert ["Dense Iter 0", "100.0", "a dog runs through the grass"] in lines
    assert [line[2] for line in lines if line[0] == "Sparse Iter 1"] == [
        "a _girl_ is […] on a rock wall",
        "a dog runs […]",
    ]


def test_the_terminal_marks_by_style_where_it_can(caption_run):
    said = printed(
        compare_in_terminal(read_run_captions(caption_run), 1), force_terminal=True, color_system="standard"
    )
    assert re.search(r"\x1b\[1;4mgirl\x1b\[0m", said)
    assert "_girl_" not in said


def test_the_terminal_takes_captions_literally(make_caption_run):
    captions = {"[red]x.jpg": (["[bold] dog"], ["[/] a", "", "[bold] dog"])}
    said = printed(compare_in_terminal(read_run_captions(make_caption_run(captions))))
    for text in ("[red]x.jpg", "[bold] dog", "[/] a", "(no words)"):
        assert text in said


def test_the_terminal_wants_at_least_one_image(caption_run):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        compare_in_terminal(read_run_captions(caption_run), 0)
