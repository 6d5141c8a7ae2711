"""``seqdsd caption`` and ``seqdsd evaluate`` with a captioner that was trained for a few seconds on drawn shapes."""

import json
import logging
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from seqdsd.cli import main
from seqdsd.config import read_config
from seqdsd.decode import greedy_captions
from seqdsd.engine import Evaluation, load_checkpoint, save_checkpoint
from seqdsd.images import ImageError
from seqdsd.inference.caption import CaptionedFile, _report, caption_images
from seqdsd.inference.scoring import Scores, as_json
from seqdsd.inference.trained import load_captioner, load_encoder
from seqdsd.recipes import neuraltalk
from seqdsd.records import RunFolder, read_json_lines
from seqdsd.reports import best_phase
from seqdsd.vision import ImageEncoder

PHASES = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")
BLEUS = [f"{kind}{order}" for kind in ("bleu", "neuraltalk_bleu") for order in (1, 2, 3, 4)]


@pytest.fixture(autouse=True)
def cached_features(monkeypatch, feature_cache):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))


@pytest.fixture(scope="module")
def run(caption_run) -> RunFolder:
    return caption_run


@pytest.fixture(scope="module")
def shapes(run):
    """Folder of the corpus."""
    return read_config(run.config, neuraltalk.Config()).data


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process: exit status, stdout, stderr."""
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = 0 if end.code is None else int(end.code)
    out, err = capsys.readouterr()
    return status, out, err


def captions_by_image(run: RunFolder, phase: str, split: str = "test") -> dict[str, str]:
    return {row["id"]: row["hyp"] for row in read_json_lines(run.hypotheses(phase, split))}


def best(run: RunFolder) -> dict:
    return dict(best_phase(run.read_phases()))


def set_features(run: RunFolder, path: object) -> None:
    """Make a run say that its features came from a file."""
    run.config.write_text(f'features = "{path}"\n' + run.config.read_text())


def rgb(path):
    with Image.open(path) as picture:
        return picture.convert("RGB")


def features_of(encoder, paths) -> torch.Tensor:
    return encoder(torch.from_numpy(np.stack([encoder.prepare(rgb(path)) for path in paths])))


def write_features(path, run: RunFolder, shapes) -> None:
    """The features of all shapes, image by image, in the order of the caption file."""
    trained = load_captioner(run, device="cpu")
    encoder = load_encoder(trained)
    entries = json.loads((shapes / "dataset_shapes.json").read_text())["images"]
    np.save(path, features_of(encoder, [shapes / "images" / entry["filename"] for entry in entries]).numpy())


def test_the_run_is_neither_perfect_nor_blind(run):
    """Else the comparisons in this file would mean little."""
    assert 0 < best(run)["test"]["bleu4"] < 100
    assert len(set(captions_by_image(run, best(run)["name"]).values())) >= 3


# caption ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [None, *PHASES])
def test_caption_says_what_the_run_recorded(run, shapes, capsys, phase):
    recorded = captions_by_image(run, phase or best(run)["name"])
    paths = [shapes / "images" / name for name in recorded]
    asked = ("--phase", phase) if phase else ()
    status, out, err = call(capsys, "caption", run.path, *paths, *asked, "--batch-size", 3)
    assert (status, err) == (0, "")
    assert out == "".join(f"{path}\t{recorded[path.name]}\n" for path in paths)


def log_prob(run: RunFolder, path, words: list[str]) -> float:
    """What the network says of a caption that is given to it whole, as in training."""
    trained = load_captioner(run, device="cpu")
    encoder, vocabulary = load_encoder(trained), trained.captioner.vocabulary
    ids = vocabulary.encode(words)
    with torch.inference_mode():
        logits = trained.model(features_of(encoder, [path]), torch.tensor([[vocabulary.start_id, *ids]]))
    found = logits[0].log_softmax(dim=1)[range(len(ids) + 1), [*ids, vocabulary.end_id]]
    return float(found.sum())


def test_json_has_image_caption_and_log_prob(run, shapes, capsys):
    path = shapes / "images" / "test03.png"
    status, out, err = call(capsys, "caption", run.path, path, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert list(found) == ["image", "caption", "log_prob"]
    assert found["image"] == str(path)
    assert found["caption"] == captions_by_image(run, best(run)["name"])["test03.png"]
    assert found["log_prob"] == pytest.approx(log_prob(run, path, found["caption"].split()), abs=1e-3)


def test_a_beam_finds_captions_at_least_as_probable(run, shapes, capsys, tmp_path):
    paths = sorted((shapes / "images").glob("test*.png"))
    unsure = RunFolder(shutil.copytree(run.path, tmp_path / "unsure"))
    # The word that it prefers is the same, but by little: a sure network leaves a beam nothing better to find.
    weights = unsure.weights(best(run)["name"])
    checkpoint = load_checkpoint(weights)
    for name in ("output.weight", "output.bias"):
        checkpoint.tensors[name] = checkpoint.tensors[name] * 0.3
    save_checkpoint(weights, checkpoint)

    def log_probs(*asked):
        status, out, _ = call(capsys, "caption", unsure.path, *paths, "--json", *asked)
        assert status == 0
        return [json.loads(line)["log_prob"] for line in out.splitlines()]

    greedy, beam = log_probs(), log_probs("--beam", 10)
    assert len(greedy) == len(beam) == 8
    assert all(after >= before - 1e-3 for before, after in zip(greedy, beam, strict=True))
    assert sum(beam) > sum(greedy) + 0.01


def test_max_words_cuts_captions(run, shapes, capsys):
    path = shapes / "images" / "test00.png"
    _, whole, _ = call(capsys, "caption", run.path, path)
    _, cut, _ = call(capsys, "caption", run.path, path, "--max-words", 2)
    assert cut.split("\t")[1].split() == whole.split("\t")[1].split()[:2]


# Each pair: what is on disk, and the same pixels as plain upright RGB, by means of Pillow and numpy alone.


def jpeg(picture, path):
    picture.save(path, quality=90)
    return rgb(path)


def cmyk_jpeg(picture, path):
    picture.convert("CMYK").save(path, quality=90)
    return rgb(path)


def rotated_jpeg(picture, path):
    """Lies on its left side; EXIF's orientation 6 says to turn it clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif)
    return Image.fromarray(np.rot90(np.asarray(rgb(path)), k=-1).copy())


def grey(picture, path):
    picture.convert("L").save(path)
    return Image.fromarray(np.stack([np.asarray(picture.convert("L"))] * 3, axis=2))


def transparent(picture, path):
    """Where it was white there is nothing, over a colour that must not show."""
    pixels = np.asarray(picture)
    is_white = (pixels == 255).all(axis=2)
    hidden = np.where(is_white[..., None], np.uint8(40), pixels)
    Image.fromarray(np.dstack([hidden, np.where(is_white, np.uint8(0), np.uint8(255))])).save(path)
    return picture


def lossless_webp(picture, path):
    picture.save(path, lossless=True)
    return picture


def large(picture, path):
    wide = picture.resize((3000, 1500))
    wide.save(path)
    return wide


def palette(picture, path):
    picture.quantize(16).save(path)
    return rgb(path)


KINDS = [
    (jpeg, "a.jpg"),
    (cmyk_jpeg, "a.JPEG"),
    (rotated_jpeg, "a.jpg"),
    (grey, "a.png"),
    (transparent, "a.png"),
    (lossless_webp, "a.webp"),
    (large, "a.tif"),
    (palette, "a.gif"),
]


@pytest.mark.parametrize(("write", "name"), KINDS, ids=[write.__name__ for write, _ in KINDS])
def test_caption_images_of_any_kind(run, shapes, tmp_path, capsys, write, name):
    write(rgb(shapes / "images" / "test05.png"), tmp_path / name).save(tmp_path / "plain.png")
    status, out, err = call(capsys, "caption", run.path, tmp_path / name, tmp_path / "plain.png", "--json")
    found, expected = map(json.loads, out.splitlines())
    assert (status, err) == (0, "")
    assert (found["image"], expected["image"]) == (f"{tmp_path}/{name}", f"{tmp_path}/plain.png")
    assert found["caption"] == expected["caption"] != ""
    assert found["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-3)


def test_folders_are_searched_in_order_and_bad_files_do_not_stop_the_rest(run, shapes, tmp_path, capsys):
    photos = tmp_path / "b"
    (photos / "deep").mkdir(parents=True)
    for name, place in (("test00.png", "deep/z.png"), ("test01.png", "c.PNG"), ("test02.png", "x.png")):
        shutil.copy(shapes / "images" / name, photos / place)
    content = (photos / "c.PNG").read_bytes()
    (photos / "cut.png").write_bytes(content[: len(content) // 2])
    (photos / "empty.webp").write_bytes(b"")
    (photos / "page.jpg").write_text("<html><body>404 not found</body></html>")
    (photos / "notes.txt").write_text("no image")
    status, out, err = call(
        capsys, "caption", run.path, photos / "x.png", tmp_path / "gone.jpg", photos, "--batch-size", 2
    )
    recorded = captions_by_image(run, best(run)["name"])
    assert status == 1
    assert out.splitlines() == [
        f"{photos}/x.png\t{recorded['test02.png']}",
        f"{photos}/c.PNG\t{recorded['test01.png']}",
        f"{photos}/deep/z.png\t{recorded['test00.png']}",
        f"{photos}/x.png\t{recorded['test02.png']}",
    ]
    problems = err.splitlines()
    assert [problem.split(": ")[0] for problem in problems] == [
        f"{tmp_path}/gone.jpg",
        *(f"{photos}/{name}" for name in ("cut.png", "empty.webp", "page.jpg")),
    ]
    for problem, what in zip(problems, ("no such file", "truncated", "empty", "text"), strict=True):
        assert what in problem


@pytest.mark.parametrize("beam", [1, 3])
def test_images_that_the_network_fails_on_are_named_and_do_not_stop_the_rest(
    run, shapes, capsys, monkeypatch, beam
):
    paths = sorted((shapes / "images").glob("test*.png"))[:4]
    forward = ImageEncoder.forward

    def broken(self, pixels):
        features = forward(self, pixels)
        features[[1, 3], 0] = torch.nan
        return features

    asked = ("caption", run.path, *paths, "--beam", beam)
    _, expected, _ = call(capsys, *asked)
    monkeypatch.setattr(ImageEncoder, "forward", broken)
    status, out, err = call(capsys, *asked)
    assert status == 1
    assert out.splitlines() == [expected.splitlines()[row] for row in (0, 2)]
    assert [line.split(": ")[0] for line in err.splitlines()] == [str(paths[1]), str(paths[3])]
    assert err.count("NaN") == 2


def test_a_folder_without_images(run, tmp_path, capsys):
    status, _, err = call(capsys, "caption", run.path, tmp_path)
    assert status == 1
    assert "no image" in err and ".webp" in err


def test_caption_holds_no_more_than_a_batch(run, shapes):
    """Images are opened only as their turn comes."""
    opened, done = [], []

    def paths():
        for _ in range(9):
            opened.append(shapes / "images" / "test00.png")
            yield opened[-1]

    trained = load_captioner(run, device="cpu")
    captioned = caption_images(
        trained, load_encoder(trained), paths(), batch_size=4, on_captioned=done.append
    )
    next(captioned)
    assert len(opened) == 4
    assert len(list(captioned)) == 8
    assert done == [4, 4, 1]


@pytest.mark.parametrize("option", [("--beam", 0), ("--max-words", 0), ("--batch-size", 0)])
def test_a_search_or_batch_of_nothing_is_refused(run, shapes, capsys, option):
    status, out, err = call(capsys, "caption", run.path, shapes / "images" / "test00.png", *option)
    assert status != 0 and out == ""
    assert option[0].strip("-").replace("-", "_") in err and "at least 1" in err


def test_the_command_as_users_start_it(run, shapes, tmp_path):
    path = shapes / "images" / "test00.png"
    done = subprocess.run(
        [sys.executable, "-m", "seqdsd.cli", "caption", run.path, path, tmp_path / "gone.jpg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == f"{path}\t{captions_by_image(run, best(run)['name'])['test00.png']}\n"
    assert len(done.stderr.splitlines()) == 1 and "gone.jpg" in done.stderr


# which CNN ----------------------------------------------------------------------------------------


def test_help_names_the_cnns(capsys):
    status, out, _ = call(capsys, "caption", "--help")
    assert status == 0
    assert "vgg16" in out and "efficientnet_lite0" in out


def test_features_from_a_file_are_taken_for_those_of_the_cnn_in_the_settings_which_is_said(
    run_copy, shapes, capsys, caplog
):
    set_features(run_copy, "feats.npy")
    path = shapes / "images" / "test00.png"
    caplog.set_level(logging.WARNING)
    status, out, _ = call(capsys, "caption", run_copy.path, path)
    assert status == 0 and out.startswith(f"{path}\t")
    assert "preprocessing" in caplog.text
    assert "feats.npy" in caplog.text and "--encoder" in caplog.text
    caplog.clear()
    assert call(capsys, "caption", run_copy.path, path, "--encoder", "efficientnet_lite0")[0] == 0
    assert caplog.text == ""
    named = run_copy.config.read_text().replace("feats.npy", "efficientnet_lite0_feats.npy")
    run_copy.config.write_text(named)  # the file's name says which CNN made it
    assert call(capsys, "caption", run_copy.path, path)[0] == 0
    assert caplog.text == ""


def test_a_cnn_whose_features_do_not_fit_is_refused(run, run_copy, shapes, capsys):
    path = shapes / "images" / "test00.png"
    status, out, err = call(capsys, "caption", run.path, path, "--encoder", "resnet18")
    assert (status, out) == (1, "")
    assert "resnet18" in err and "512" in err and "1280, from efficientnet_lite0" in err
    set_features(run_copy, "data/feats.npy")
    status, out, err = call(capsys, "caption", run_copy.path, path, "--encoder", "resnet18")
    assert (status, out) == (1, "")
    assert "data/feats.npy" in err and "--encoder (of that size: efficientnet_lite0" in err
    status, _, err = call(capsys, "caption", run.path, path, "--encoder", "resnet1800")
    assert status == 1 and "resnet1800" in err


def test_weights_of_another_network_are_refused(run, shapes, tmp_path, capsys):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    path = shapes / "images" / "test00.png"
    status, out, err = call(capsys, "caption", run.path, path, "--weights", tmp_path / "other.pth")
    assert (status, out) == (1, "")
    assert "other.pth" in err


# evaluate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("split", ["test", "dev"])
def test_evaluate_gives_what_the_run_recorded(run, capsys, tmp_path, phase, split):
    hyps = tmp_path / "hyps.jsonl"
    status, out, _ = call(
        capsys, "evaluate", run.path, "--phase", phase, "--split", split, "--json", "--hyps", hyps
    )
    assert status == 0
    found = json.loads(out)
    record = next(one for one in run.read_phases() if one["name"] == phase)
    assert found["phase"] == phase and found["skipped"] == 0
    assert found.keys() == {"phase", split, "skipped", "command"}
    assert found[split] == record[split]  # to the last digit
    assert found[split].keys() >= {*BLEUS, "cider_d", "rouge_l", "perplexity", "signature", "decoding"}
    written = list(read_json_lines(hyps))
    assert {row.pop("split") for row in written} == {split}
    if split == "test":
        assert written == list(read_json_lines(run.hypotheses(phase, "test")))


def test_evaluate_prints_both_bleus_and_what_they_depend_on(run, capsys):
    status, out, _ = call(capsys, "evaluate", run.path)
    record = best(run)
    scores = record["test"]
    assert status == 0
    rows = [line.split() for line in out.splitlines() if line.strip()]
    standard = next(row for row in rows if "standard" in row)
    assert standard == ["test", "standard", *(f"{scores[f'bleu{n}']:.1f}" for n in (1, 2, 3, 4))]
    no_penalty = next(row for row in rows if "NeuralTalk's" in row)
    assert no_penalty[-4:] == [f"{scores[f'neuraltalk_bleu{n}']:.1f}" for n in (1, 2, 3, 4)]
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split(maxsplit=1)) == 2)
    assert facts["CIDEr-D"] == f"{scores['cider_d']:.3f}"
    assert facts["ROUGE-L"] == f"{scores['rouge_l']:.3f}"
    assert facts["perplexity"].startswith(f"{scores['perplexity']:.2f} ")
    assert facts["images"] == "8"
    assert facts["phase"] == record["name"]
    assert facts["decoding"] == "greedy, at most 20 words"
    assert facts["signature"] == scores["signature"]
    assert facts["command"] == f"seqdsd evaluate {run.path}"


def test_another_search_is_said_and_used(run, shapes, tmp_path, capsys):
    hyps = tmp_path / "hyps.jsonl"
    asked = ("--beam", 5, "--max-words", 3)
    status, out, _ = call(capsys, "evaluate", run.path, *asked, "--json", "--hyps", hyps)
    assert status == 0
    assert json.loads(out)["test"]["decoding"] == "beam 5, at most 3 words"
    found = {row["id"]: row["hyp"] for row in read_json_lines(hyps)}
    paths = [shapes / "images" / name for name in found]
    _, out, _ = call(capsys, "caption", run.path, *paths, *asked)
    assert out == "".join(f"{path}\t{found[path.name]}\n" for path in paths)


def test_features_from_a_file_stand_in_for_the_cnn(run, run_copy, shapes, tmp_path, capsys):
    write_features(tmp_path / "feats.npy", run, shapes)
    status, out, _ = call(capsys, "evaluate", run.path, "--features", tmp_path / "feats.npy", "--json")
    expected = best(run)["test"]
    assert status == 0
    assert [json.loads(out)["test"][name] for name in BLEUS] == [expected[name] for name in BLEUS]

    set_features(run_copy, tmp_path / "feats.npy")  # now they are the run's own
    status, out, _ = call(capsys, "evaluate", run_copy.path, "--json")
    assert status == 0
    assert [json.loads(out)["test"][name] for name in BLEUS] == [expected[name] for name in BLEUS]


def test_of_a_feature_file_only_the_rows_that_are_judged_must_be_usable(run, shapes, tmp_path, capsys):
    write_features(tmp_path / "feats.npy", run, shapes)
    array = np.load(tmp_path / "feats.npy")
    array[[0, 41]] = np.nan  # of train and dev
    np.save(tmp_path / "feats.npy", array)
    asked = ("evaluate", run.path, "--features", tmp_path / "feats.npy", "--json")
    for on_bad_data in ("error", "skip"):
        status, out, _ = call(capsys, *asked, "--on-bad-data", on_bad_data)
        assert status == 0
        assert json.loads(out)["skipped"] == 0
        assert json.loads(out)["test"]["bleu4"] == best(run)["test"]["bleu4"]
    status, _, err = call(capsys, *asked, "--split", "dev")
    assert status == 1
    assert "row 41, image val01.png" in err


def test_only_what_is_skipped_of_the_split_is_counted(run, shapes, tmp_path, capsys):
    content = json.loads((shapes / "dataset_shapes.json").read_text())
    for position in (0, 41, 50):  # of train, dev and test
        content["images"][position]["sentences"] = []
    (tmp_path / "dataset_shapes.json").write_text(json.dumps(content))
    asked = ("--data", tmp_path, "--images", shapes / "images", "--on-bad-data", "skip", "--json")
    status, out, _ = call(capsys, "evaluate", run.path, *asked)
    assert status == 0
    assert (json.loads(out)["skipped"], json.loads(out)["test"]["images"]) == (1, 7)


def test_numbers_that_are_not_finite_are_null():
    metrics = {"perplexity": math.inf, "bleu4": 12.345678901234567, "characters": {"cer": math.nan}}
    evaluation = Evaluation(loss=math.nan, score=0.0, headline="", metrics=metrics, hypotheses=[])
    text = as_json(Scores({"name": "Dense"}, {"test": evaluation}, {}), "seqdsd evaluate ü")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["test"] == {"perplexity": None, "bleu4": 12.345678901234567, "characters": {"cer": None}}
    assert found["command"] == "seqdsd evaluate ü"


def test_features_of_another_size_are_refused(run, tmp_path, capsys):
    np.save(tmp_path / "vgg.npy", np.ones((56, 4096), np.float32))
    status, out, err = call(capsys, "evaluate", run.path, "--features", tmp_path / "vgg.npy")
    assert (status, out) == (1, "")
    assert "vgg.npy" in err and "4096" in err and "1280" in err


def test_features_and_images_at_once_are_refused(run, shapes, capsys):
    status, out, err = call(capsys, "evaluate", run.path, "--features", "f.npy", "--images", shapes)
    assert status != 0 and out == ""
    assert "--images" in err


def test_only_the_images_that_are_judged_need_be_there(run, shapes, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for path in (shapes / "images").glob("test*.png"):
        shutil.copy(path, tmp_path / "images")
    shutil.copy(shapes / "dataset_shapes.json", tmp_path)
    expected = best(run)["test"]["bleu4"]
    status, out, _ = call(capsys, "evaluate", run.path, "--data", tmp_path, "--json")
    assert (status, json.loads(out)["test"]["bleu4"]) == (0, expected)
    status, out, _ = call(capsys, "evaluate", run.path, "--images", tmp_path / "images", "--json")
    assert (status, json.loads(out)["test"]["bleu4"]) == (0, expected)
    status, out, err = call(capsys, "evaluate", run.path, "--data", tmp_path, "--split", "dev")
    assert (status, out) == (1, "")
    assert "val00.png" in err


def test_dev_can_be_judged_where_there_is_no_test_set(run, shapes, tmp_path, capsys):
    content = json.loads((shapes / "dataset_shapes.json").read_text())
    content["images"] = [image for image in content["images"] if image["split"] != "test"]
    (tmp_path / "dataset_shapes.json").write_text(json.dumps(content))
    asked = ("evaluate", run.path, "--data", tmp_path, "--images", shapes / "images", "--json")
    status, out, _ = call(capsys, *asked, "--split", "dev")
    assert (status, json.loads(out)["dev"]["bleu4"]) == (0, best(run)["dev"]["bleu4"])
    status, _, err = call(capsys, *asked)
    assert status == 1 and "no image of the split 'test'" in err


def test_evaluate_can_skip_what_cannot_be_read(run, shapes, tmp_path, capsys):
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "data" / "images" / "test03.png").write_bytes(b"no image")
    asked = ("evaluate", run.path, "--data", tmp_path / "data", "--json")
    status, out, err = call(capsys, *asked)
    assert (status, out) == (1, "")
    assert "test03.png" in err
    status, out, _ = call(capsys, *asked, "--on-bad-data", "skip")
    assert status == 0
    assert (json.loads(out)["skipped"], json.loads(out)["test"]["images"]) == (1, 7)

    for path in (tmp_path / "data" / "images").glob("test*.png"):
        path.write_bytes(b"no image")
    status, _, err = call(capsys, *asked, "--on-bad-data", "skip")
    assert status == 1
    assert "no image" in err


def test_help_teaches_the_runs_own_kind(run, capsys):
    _, of_any, _ = call(capsys, "evaluate", "--help")
    status, of_captions, _ = call(capsys, "evaluate", run.path, "--help")
    assert status == 0
    assert (
        "--beam" in of_captions and "--features" in of_captions and "--max-batch-seconds" not in of_captions
    )
    assert "--hyps" in of_any and "RUN, --help" in of_any


def test_a_captioner_does_not_transcribe(run, tmp_path, capsys):
    status, out, err = call(capsys, "transcribe", run.path, tmp_path / "a.wav")
    assert (status, out) == (1, "")
    assert "neuraltalk" in err and "seqdsd caption" in err


def test_greedy_search_is_what_a_beam_of_one_gives(run, shapes):
    """The command searches with beams whatever their number; the task takes the greedy function for one."""
    trained = load_captioner(run, device="cpu")
    encoder, vocabulary = load_encoder(trained), trained.captioner.vocabulary
    paths = sorted((shapes / "images").glob("val*.png"))
    greedy = greedy_captions(
        trained.model.module,
        features_of(encoder, paths),
        start_id=vocabulary.start_id,
        end_id=vocabulary.end_id,
    )
    found = list(caption_images(trained, encoder, paths))
    assert [one.caption for one in found] == [vocabulary.decode(one.tokens) for one in greedy]
    assert [one.log_prob for one in found] == pytest.approx([one.log_prob for one in greedy], abs=1e-4)


def test_output_does_not_steer_a_terminal(capsys, tmp_path):
    path = tmp_path / "a\x1b[2J\nb\udcff.jpg"  # the last is how Python has a byte that is not UTF-8
    for is_json in (False, True):
        assert _report(CaptionedFile(path, "a \x9b31m dog"), as_json=is_json)
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and not {"\x1b", "\x9b", "\udcff"} & set(out)
    assert json.loads(out)["image"] == str(path)
    assert not _report(CaptionedFile(path, problem=str(ImageError(path, "gone", "Find it"))), as_json=False)
    assert capsys.readouterr().err.endswith("a\\x1b[2J\\nb\\udcff.jpg: gone. Find it\n")
