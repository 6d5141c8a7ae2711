"""Which utterances and images a report holds, of which runs, with which files."""

import base64
import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from seqdsd.records import RunFolder, read_json_lines, write_json_lines
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.page import items as report_items
from seqdsd.reports.page.described_runs import shown_runs
from seqdsd.reports.page.items import chosen_split, read_items
from seqdsd.reports.runs.reading import read_runs


def items_of(*paths, split=None, max_media_bytes=0):
    runs = shown_runs(read_runs(paths).runs)
    return runs, read_items(runs, compare_runs(runs), split=split).with_media(max_media_bytes)


def give_audio(folder: RunFolder, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Writes a recording for each test utterance and lists it; returns what is in the files."""
    ids = [row["id"] for row in read_json_lines(next(folder.path.glob("hyps/*.test.jsonl")))]
    rows, data = [], {}
    for number, id_ in enumerate(ids):
        path = folder.path / f"audio-{number}.wav"
        if id_ not in without:
            soundfile.write(path, (1000 * np.sin(np.arange(400) / (3 + number))).astype(np.int16), 16000)
            data[id_] = path.read_bytes()
        rows.append({"id": id_, "path": path.name})
    write_json_lines(folder.audio, rows)
    return data


def test_a_comparison_shares_its_items(comparison):
    runs, items = items_of(comparison)
    (group,) = items.groups
    assert group["runs"] == list(range(20)) and len(group["items"]) == 42
    own = [view for view in group["views"] if view["run"] is not None]
    assert [
        title for title, _ in own[runs.index(next(run for run in runs if run.arm == "DSD"))]["columns"]
    ] == [
        "Dense Iter 0",
        "Sparse Iter 1",
        "Dense Iter 1",
    ]
    columns = [number for view in own for _, number in view["columns"]]
    assert columns == list(range(5 * (1 + 5 + 3 + 5)))
    assert all(len(item["said"]) == len(columns) for item in group["items"])


def test_arms_of_a_seed_stand_beside_each_other(comparison):
    runs, items = items_of(comparison)
    (group,) = items.groups
    arms = [view for view in group["views"] if view["run"] is None]
    assert [view["seed"] for view in arms] == [0, 1, 2, 3, 4]
    last = {
        (runs[view["run"]].arm, runs[view["run"]].seed): view["columns"][-1][1]
        for view in group["views"]
        if view["run"] is not None
    }
    for view in arms:
        assert view["columns"] == tuple(
            (arm, last[arm, view["seed"]]) for arm in ("Baseline", "LLR", "DSD", "DSDSD")
        )


def test_what_is_said_is_what_the_files_hold(comparison):
    runs, items = items_of(comparison)
    (group,) = items.groups
    for number, run in enumerate(runs):
        view = next(view for view in group["views"] if view["run"] == number)
        for record, (_, column) in zip(run.phases, view["columns"], strict=True):
            rows = {row["id"]: row for row in read_json_lines(run.folder.hypotheses(record["name"], "test"))}
            texts = {item["id"]: item["texts"][item["said"][column]] for item in group["items"]}
            assert {id_: text[0] for id_, text in texts.items()} == {
                id_: row["hyp"] for id_, row in rows.items()
            }
            errors = (
                record["test"]["substitutions"] + record["test"]["deletions"] + record["test"]["insertions"]
            )
            assert sum(text[2] for text in texts.values()) == errors


def test_other_data_are_another_group(comparison, caption_comparison, make_arm):
    folder = make_arm("other", "dsd")
    for path in folder.path.glob("hyps/*.jsonl"):
        write_json_lines(path, list(read_json_lines(path))[1:])
    records = folder.read_phases()
    folder.write_phases(
        {**one, **{split: {**one[split], "utterances": 41} for split in ("dev", "test")}} for one in records
    )
    runs, items = items_of(comparison / "seed-0/dsd", folder.path, caption_comparison / "seed-0/dsd")
    assert [(group["kind"], group["runs"]) for group in items.groups] == [
        ("speech", [0]),
        ("speech", [1]),
        ("captions", [2]),
    ]


def test_captions_are_marked_view_by_view(caption_comparison):
    _, items = items_of(caption_comparison)
    (group,) = items.groups
    changed = 0
    for item in group["items"]:
        assert [len(marks) for marks in item["marks"]] == [len(view["columns"]) for view in group["views"]]
        for view, marks in zip(group["views"], item["marks"], strict=True):
            hyps = [item["texts"][item["said"][column]][0] for _, column in view["columns"]]
            for before, now, mark in zip(hyps, hyps[1:], marks[1:], strict=False):
                assert (set(mark) == {"="}) == (before == now)
                assert len(mark.replace("-", "")) == len(now.split())
                changed += before != now
    assert changed


def test_classes_stand_below_each_other_without_marks(class_comparison):
    _, items = items_of(class_comparison)
    (group,) = items.groups
    assert group["kind"] == "classification" and len(group["items"]) == 42
    assert not any("marks" in item for item in group["items"])
    right = [item for item in group["items"] if item["texts"][item["said"][-1]][2] == 0]
    assert all(item["texts"][item["said"][-1]][0] == item["refs"][0] for item in right) and right


def test_damaged_hypotheses_are_named_and_the_rest_is_shown(make_comparison):
    folder = make_comparison(seeds=[0], arms=["baseline", "dsd"])
    path = RunFolder(folder / "seed-0/dsd").hypotheses("Dense Iter 1", "test")
    runs = read_runs([folder]).runs
    path.unlink()  # after the runs were read: files vanish
    items = read_items(runs, compare_runs(runs), split=None)
    assert [runs[number].arm for number in items.groups[0]["runs"]] == ["Baseline"]
    assert items.problems == (
        f"{path}: missing, so the hypotheses of phase 'Dense Iter 1' are unknown; bring the file back or train again",
    )
    write_json_lines(path, list(read_json_lines(path.with_name("sparse-iter-1.test.jsonl")))[2:])
    items = read_items(runs, compare_runs(runs), split=None)
    assert "other items than in the first phase, 'u00' for one" in items.problems[0]


def test_the_split_is_the_first_test_set_or_dev(make_arm, comparison):
    folder = make_arm("tuning", "dsd")
    folder.write_phases({k: v for k, v in record.items() if k != "test"} for record in folder.read_phases())
    (run,) = read_runs([folder.path]).runs
    assert (chosen_split(run, None), chosen_split(run, "test")) == ("dev", "test")
    _, items = items_of(folder.path)
    assert len(items.groups) == 1 and items.problems == ()


def test_recordings_are_embedded_most_changed_first(make_comparison):
    folder = make_comparison(seeds=[0], arms=["dsdsd"])
    data = give_audio(RunFolder(folder / "seed-0/dsdsd"))
    size = len(next(iter(data.values())))
    uri = len("data:audio/wav;base64,") + 4 * -(-size // 3)
    for kept in (0, 1, 5, 42):
        _, items = items_of(folder, max_media_bytes=kept * uri)
        (group,) = items.groups
        embedded = [item["id"] for item in group["items"] if "media" in item]
        assert embedded == [item["id"] for item in group["items"]][:kept] and items.num_embedded == kept
        left = [note for note in group["notes"] if "left out" in note]
        assert bool(left) == (kept < 42)
        if left:
            assert left[0].startswith(
                f"{kept} recording{'' if kept == 1 else 's'} embedded, of what changes most; {42 - kept} left out"
            )
    samples, _ = soundfile.read(io.BytesIO(data["u00"]))
    assert len(samples) == 400
    changes = [
        abs(item["texts"][item["said"][0]][2] - item["texts"][item["said"][-1]][2]) for item in group["items"]
    ]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0


def test_spectrograms_of_what_changes_most_with_the_words_that_are_known(make_comparison, monkeypatch):
    monkeypatch.setattr(report_items, "MAX_SPECTROGRAMS", 3)
    folder = make_comparison(seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    give_audio(run)
    for path in run.path.glob("audio-*.wav"):
        soundfile.write(path, 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    _, items = items_of(folder, max_media_bytes=10**7)
    (group,) = items.groups
    assert items.num_embedded == 42
    assert ["spectrogram" in item for item in group["items"]] == [True] * 3 + [False] * 39
    assert not any("words" in item for item in group["items"])

    first, other = (item["id"] for item in group["items"][:2])
    stems = {row["id"]: row["path"].removesuffix(".wav") for row in read_json_lines(run.audio)}
    (run.path / "words.ctm").write_text(
        f"{stems[first]} 1 0.25 0.50 go 0.9\n{stems['u41']} 1 0.00 0.10 no 0.9\n"
    )
    _, items = items_of(folder, max_media_bytes=10**7)
    timed = {
        item["id"]: (item["words"], item["seconds"]) for item in items.groups[0]["items"] if "words" in item
    }
    assert timed[first] == ([("go", 0.25, 0.75)], 1.0) and other not in timed


def test_spectrograms_leave_most_of_the_room_to_recordings(make_comparison):
    folder = make_comparison(seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    give_audio(run)
    for path in run.path.glob("audio-*.wav"):
        soundfile.write(path, 0.1 * np.sin(np.arange(16_000) / 5), 16_000)
    for room in (0, 100_000, 600_000):
        _, items = items_of(folder, max_media_bytes=room)
        uris = [
            [item[key] for item in items.groups[0]["items"] if key in item]
            for key in ("media", "spectrogram")
        ]
        sizes = [sum(map(len, one)) for one in uris]
        assert sum(sizes) <= room and sizes[1] <= room / 4 and (not room or all(sizes))


def test_missing_and_damaged_files_are_counted(make_comparison):
    folder = make_comparison(seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    give_audio(run, without=("u03", "u04"))
    (run.path / "audio-7.wav").write_bytes(b"in disguise")
    _, items = items_of(folder, max_media_bytes=10**7)
    assert items.num_embedded == 39
    assert items.groups[0]["notes"] == [
        "2 utterances have no recording that can be found from the run folder.",
        "1 recording cannot be read, u07 for one.",
    ]


def test_pictures_outside_the_corpus_are_left_out(make_comparison, tmp_path):
    folder = make_comparison(kind="captions", seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    for path in (run.path / "photo.png", tmp_path / "private.png"):
        Image.new("RGB", (64, 48)).save(path)
    paths = [str(tmp_path / "private.png"), *["photo.png"] * 41]
    write_json_lines(run.images, [{"id": f"{n:02d}.png", "path": path} for n, path in enumerate(paths)])
    _, items = items_of(folder, max_media_bytes=10**6)
    assert (items.num_embedded, items.num_outside) == (41, 1)
    assert items.groups[0]["notes"] == ["1 picture lies outside the corpus' folder, and so not on the page."]


def test_pictures_are_embedded(make_comparison):
    folder = make_comparison(kind="captions", seeds=[0], arms=["dsd"])
    run = RunFolder(folder / "seed-0/dsd")
    Image.new("RGB", (640, 480), (200, 30, 30)).save(run.path / "photo.png")
    write_json_lines(run.images, [{"id": f"{n:02d}.png", "path": "photo.png"} for n in range(40)])
    _, items = items_of(folder, max_media_bytes=10**6)
    (group,) = items.groups
    assert items.num_embedded == 40
    assert group["notes"] == ["2 images have no picture that can be found from the run folder."]
    head, _, data = next(item["media"] for item in group["items"] if "media" in item).partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 240)


def test_a_large_test_set_is_cut_and_that_is_said(comparison, monkeypatch):
    _, whole = items_of(comparison)
    (group,) = whole.groups
    size = len(json.dumps(group["items"][0], ensure_ascii=False, separators=(",", ":"))) + 1
    monkeypatch.setattr(report_items, "MAX_TEXT_BYTES", 10 * size)
    _, cut = items_of(comparison)
    shown = cut.groups[0]["items"]
    assert 5 < len(shown) < 15 and shown == group["items"][: len(shown)]
    assert (
        cut.groups[0]["notes"][0]
        == f"The page holds {len(shown)} of 42 utterances: those whose scores change most."
    )


@pytest.mark.parametrize("kind", ["speech", "captions"])
def test_without_references(make_comparison, kind):
    folder = make_comparison(kind=kind, seeds=[0], arms=["dsd"])
    for path in folder.rglob("hyps/*.jsonl"):
        write_json_lines(path, [{"id": row["id"], "hyp": row["hyp"]} for row in read_json_lines(path)])
    _, items = items_of(folder)
    assert {text[2] for item in items.groups[0]["items"] for text in item["texts"]} == {None}
