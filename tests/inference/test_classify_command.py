"""Classifiers in use: what the commands print, what Python gives, what the run itself recorded; and their export."""

import json
import shutil

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

import seqdsd
from seqdsd.cli import main
from seqdsd.config import read_config
from seqdsd.inference.graphs import classifier_graphs
from seqdsd.inference.trained import load_classifier
from seqdsd.recipes import vision
from seqdsd.records import read_json_lines

ON_CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch, feature_cache):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))


@pytest.fixture
def data(class_run):
    return read_config(class_run.config, vision.Config()).data


@pytest.fixture
def photos(data):
    return sorted((data / "test").rglob("*.png"))


def printed(capsys, *arguments) -> str:
    capsys.readouterr()
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def recorded(class_run, phase, split="test"):
    return {row["id"]: row for row in read_json_lines(class_run.hypotheses(phase, split))}


# classify


def test_images_are_taken_for_what_the_run_recorded(class_run, photos, capsys):
    out = printed(capsys, "classify", class_run.path, *photos, "--phase", "Sparse Iter 1", *ON_CPU)
    rows = recorded(class_run, "Sparse Iter 1")
    for path, line in zip(photos, out.splitlines(), strict=True):
        row = rows[f"test/{path.parent.name}/{path.name}"]
        shown, name, probability = line.split("\t")
        assert (shown, name) == (str(path), row["hyp"])
        assert float(probability) == pytest.approx(row["top5"][0]["probability"], abs=1e-3)
    assert len({row["hyp"] for row in rows.values()}) > 3


def test_json_names_five_classes(class_run, data, capsys):
    out = printed(capsys, "classify", class_run.path, data / "test", "--json", "--batch-size", 5, *ON_CPU)
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 16 and all(len(row["top5"]) == 5 for row in rows)
    assert all(row["class"] == row["top5"][0]["class"] for row in rows)


def test_photos_of_any_size_and_kind(class_run, tmp_path, capsys):
    picture = Image.new("RGB", (900, 300), "white")
    picture.paste("red", (300, 0, 600, 300))
    picture.save(tmp_path / "wide.jpg", quality=95)
    picture.crop((300, 0, 600, 300)).convert("P").save(tmp_path / "palette.gif")
    out = printed(capsys, "classify", class_run.path, tmp_path, *ON_CPU)
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(tmp_path / name) for name in ("palette.gif", "wide.jpg")
    ]


def test_one_that_cannot_be_read_is_named_and_the_others_are_classified(class_run, photos, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(photos[0].read_bytes()[:40])
    with pytest.raises(SystemExit) as ended:
        main(["classify", *map(str, (class_run.path, tmp_path / "bad.png", photos[0])), *ON_CPU])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and "bad.png" in err
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(photos[0])]


def test_a_network_of_nan_says_so(class_run, photos, capsys):
    trained = load_classifier(class_run, device="cpu")
    with torch.no_grad():
        trained.model.module.output.bias.fill_(float("nan"))
    (found,) = seqdsd.inference.classify.classify_images(trained, photos[:1])
    assert found.problem.endswith("Take another phase (--phase)") and str(photos[0]) in found.problem


# load


def test_python_says_what_the_command_prints(class_run, photos, capsys):
    network = seqdsd.load(class_run.path, device="cpu")
    out = printed(capsys, "classify", class_run.path, *photos[:3], *ON_CPU)
    expected = [line.split("\t")[1] for line in out.splitlines()]
    assert network.classify(photos[:3]) == expected
    opened = [Image.open(photos[0]), np.array(Image.open(photos[1]).convert("RGB"))]
    assert network.classify(opened) == expected[:2]
    assert network.classify(str(photos[2])) == expected[2:]
    (one,) = network.classified(photos[0])
    assert one.tops[0]["class"] == expected[0] and len(one.tops) == 5
    assert repr(network).startswith(f"<{network.phase['name']} of {class_run.path}, SmallResNet on cpu")


def test_what_cannot_be_done_is_said(class_run, tone_run, tmp_path):
    network = seqdsd.load(class_run.path, device="cpu")
    (tmp_path / "bad").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="bad: "):
        network.classify(tmp_path / "bad")
    for refused in (network.caption, network.transcribe):
        with pytest.raises(TypeError, match="an image classifier; use seqdsd classify"):
            refused("x")
    with pytest.raises(TypeError, match="a recogniser"):
        seqdsd.load(tone_run.path, device="cpu").classify("x")
    with pytest.raises(TypeError, match="beam"):
        seqdsd.load(class_run.path, beam=2)


# evaluate


@pytest.mark.parametrize(("phase", "split"), [("Dense Iter 0", "test"), ("Sparse Iter 1", "dev")])
def test_scores_are_the_runs_own(class_run, phase, split, tmp_path, capsys):
    arguments = ("--phase", phase, "--split", split, "--batch-size", 3, "--hyps", tmp_path / "hyps.jsonl")
    found = json.loads(printed(capsys, "evaluate", class_run.path, *arguments, "--json", *ON_CPU))
    own = next(one for one in class_run.read_phases() if one["name"] == phase)[split]
    assert found[split].pop("loss") == pytest.approx(own.pop("loss"), rel=1e-4)
    assert (found["phase"], found[split]) == (phase, own)
    rows = {row["id"]: row for row in read_json_lines(tmp_path / "hyps.jsonl")}
    assert {id_: row["hyp"] for id_, row in rows.items()} == {
        id_: row["hyp"] for id_, row in recorded(class_run, phase, split).items()
    }


def test_a_batch_of_no_image_is_refused(class_run, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(class_run.path), "--batch-size", "0", *ON_CPU])
    assert "batch_size must be at least 1, got 0" in capsys.readouterr().err


def test_the_table_has_both_errors_with_their_counts(class_run, capsys):
    out = printed(capsys, "evaluate", class_run.path, *ON_CPU)
    own = seqdsd.load(class_run.path, device="cpu").phase["test"]
    for title, key in (("Top-1 error", "top1"), ("Top-5 error", "top5")):
        line = next(line.split() for line in out.splitlines() if title in line)
        assert line[-3:] == [f"{100 * own[f'{key}_error']:.2f}", str(own[f"{key}_errors"]), "16"]
    assert "classes:8|images:3x16x16" in out


def test_other_data_need_not_have_all_classes_but_no_other(class_run, data, tmp_path, capsys):
    shutil.copytree(data / "test" / "red circle", tmp_path / "test" / "red circle")
    found = json.loads(printed(capsys, "evaluate", class_run.path, "--data", tmp_path, "--json", *ON_CPU))
    own = recorded(class_run, found["phase"])
    wrong = sum(own[f"test/red circle/{number}.png"]["hyp"] != "red circle" for number in (0, 1))
    assert (found["test"]["images"], found["test"]["top1_errors"]) == (2, wrong)
    shutil.copytree(data / "test" / "red circle", tmp_path / "test" / "pink circle")
    with pytest.raises(SystemExit):
        main(["evaluate", str(class_run.path), "--data", str(tmp_path), *ON_CPU])
    assert "pink circle" in capsys.readouterr().err


# export

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_exported_classifier_takes_8_bit_images_and_gives_the_same(
    class_run, photos, tmp_path, ending, capsys
):
    jaxtyping.config.update("jaxtyping_disable", True)  # checks would be traced into the graph
    try:
        path = tmp_path / f"net.{ending}"
        printed(capsys, "export", class_run.path, "--out", path)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    images = np.stack([np.asarray(Image.open(one)).transpose(2, 0, 1) for one in photos[:5]])
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path)
        (probabilities,) = session.run(None, {"images": images})
        facts = json.loads(session.get_modelmeta().custom_metadata_map["seqdsd"])
        assert facts["classes"][0] == "blue circle" and facts["images"]["height"] == 16
    else:
        probabilities = torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()
    found = list(seqdsd.load(class_run.path, device="cpu").classified(photos[:5]))
    assert [one.tops[0]["probability"] for one in found] == pytest.approx(probabilities.max(1), abs=1e-4)
    classes = classifier_graphs(load_classifier(class_run, device="cpu"))[1]["classes"]
    assert [one.tops[0]["class"] for one in found] == [classes[best] for best in probabilities.argmax(1)]
