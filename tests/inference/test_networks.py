import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import seqdsd
from seqdsd.cli import main
from seqdsd.config import read_config
from seqdsd.inference.networks import USES
from seqdsd.kinds import KIND_OF_RECIPE, KINDS
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.catalog import RECIPES


@pytest.fixture(scope="module")
def recordings(tone_run) -> list:
    folder = read_config(tone_run.config, ds1.Config()).data
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    return [folder / row["audio_filepath"] for row in rows]


@pytest.fixture(scope="module")
def photos(caption_run) -> list:
    folder = read_config(caption_run.config, neuraltalk.Config()).data
    return sorted(folder.rglob("*.png"))[:3] or sorted(folder.parent.rglob("*.png"))[:3]


def printed(capsys, *arguments) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_every_recipe_has_one_kind_and_every_kind_a_use():
    assert set(RECIPES) == set(KIND_OF_RECIPE)
    assert set(USES) == {kind.name for kind in KINDS}


def test_a_recogniser_says_what_the_command_prints(tone_run, recordings, capsys):
    network = seqdsd.load(tone_run.path, device="cpu")
    lines = printed(capsys, "transcribe", tone_run.path, *recordings, "--device", "cpu").splitlines()
    assert network.transcribe(recordings) == [line.split("\t")[1] for line in lines]
    assert len(set(network.transcribe(recordings))) > 1
    assert repr(network).startswith(f"<{network.phase['name']} of {tone_run.path}, DeepSpeech1 on cpu")


def test_samples_are_heard_as_their_file_is(tone_run, recordings):
    network = seqdsd.load(tone_run.path, device="cpu")
    samples, rate_hz = soundfile.read(recordings[0], dtype="float32")
    expected = network.transcribe(str(recordings[0]))
    assert network.transcribe(samples, sample_rate_hz=rate_hz) == expected
    assert network.transcribe([torch.from_numpy(samples)]) == expected
    twice = np.repeat(samples, 2)  # at twice the rate
    assert network.transcribe(twice, sample_rate_hz=2 * rate_hz) == expected


def test_word_times_lie_within_the_recording(tone_run, recordings):
    [transcript] = seqdsd.load(tone_run.path, device="cpu").transcripts(recordings[0], with_words=True)
    times = [time for word in transcript.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= transcript.duration_seconds


@pytest.mark.parametrize(
    ("samples", "error", "said"),
    [
        (np.zeros(16_000, np.int16), TypeError, "divide 16-bit ones by 32768"),
        (np.zeros((2, 16_000), np.float32), ValueError, r"\[samples\], got \(2, 16000\)"),
        (np.full(16_000, np.nan, np.float32), ValueError, "finite"),
    ],
)
def test_samples_that_are_none_are_refused(tone_run, samples, error, said):
    with pytest.raises(error, match=said):
        seqdsd.load(tone_run.path, device="cpu").transcribe(samples)


def test_an_unreadable_file_is_named(tone_run, caption_run, tmp_path):
    (tmp_path / "bad").write_bytes(b"neither sound nor picture")
    with pytest.raises(ValueError, match=r"bad: "):
        seqdsd.load(tone_run.path, device="cpu").transcribe(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"bad: "):
        seqdsd.load(caption_run.path, device="cpu").caption(tmp_path / "bad")


def test_a_captioner_says_what_the_command_prints(caption_run, photos, capsys):
    network = seqdsd.load(caption_run.path, device="cpu", beam=2)
    out = printed(capsys, "caption", caption_run.path, *photos, "--device", "cpu", "--beam", "2")
    expected = [line.split("\t")[1] for line in out.splitlines()]
    assert network.caption(photos) == expected
    assert (
        network.caption([Image.open(photos[0]), np.array(Image.open(photos[1]).convert("RGB"))])
        == expected[:2]
    )
    assert network.caption(str(photos[2])) == expected[2:]


@pytest.mark.parametrize("kind", ["speech", "captions"])
def test_scores_are_those_of_the_command(kind, tone_run, caption_run, feature_cache, monkeypatch, capsys):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))
    run = tone_run if kind == "speech" else caption_run
    printed_scores = json.loads(printed(capsys, "evaluate", run.path, "--json", "--device", "cpu"))
    found = seqdsd.load(run.path, device="cpu").evaluate()
    score = "wer" if kind == "speech" else "bleu4"
    assert found.metrics["test"][score] == printed_scores["test"][score]


def test_a_search_given_to_evaluate_is_told_its_place(caption_run):
    with pytest.raises(ValueError, match=r"beam: give it to load\(\)"):
        seqdsd.load(caption_run.path, device="cpu").evaluate(beam=3)


def test_the_other_kinds_work_is_refused_in_words(tone_run, caption_run):
    with pytest.raises(TypeError, match="a recogniser; use seqdsd transcribe"):
        seqdsd.load(tone_run.path, device="cpu").caption("photo.jpg")
    with pytest.raises(TypeError, match="a captioner; use seqdsd caption"):
        seqdsd.load(caption_run.path, device="cpu").transcribe("recording.wav")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        seqdsd.lode  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    heavy = "torch", "numpy", "nltk", "rich", "PIL"
    code = f"import sys, seqdsd; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recognisers_do_not_wait_for_torchvision():
    """Fabric looks which version of torchmetrics is there, and this would import it."""
    code = "import sys; sys.modules['torchmetrics'] = None; import seqdsd.inference.transcribe; "
    code += "print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
