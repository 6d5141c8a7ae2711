"""The ``seqdsd`` command from end to end: one tiny run is trained on words spelt in tones, then used."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import seqdsd
from seqdsd import __version__
from seqdsd.audio import read_audio
from seqdsd.cli import COMMANDS, main
from seqdsd.config import read_config
from seqdsd.engine import NesterovSettings
from seqdsd.inference.trained import load_recogniser
from seqdsd.inference.transcribe import transcribe
from seqdsd.recipes import ds1
from seqdsd.records import RunFolder, read_json_lines
from seqdsd.tasks import AugmentSettings
from seqdsd.tasks.decoding import digest_of

WORDS = ("bad", "cab", "fed", "ace", "deaf")
LETTER_SECONDS = 0.1


def spelt(text: str, rate_hz: int = 16_000) -> np.ndarray:
    """Each letter as a tone of its own pitch, a space as silence, over a little noise."""
    time = np.arange(round(LETTER_SECONDS * rate_hz)) / rate_hz
    pitches = [400 + 600 * (ord(letter) - ord("a")) if letter != " " else 0 for letter in f" {text} "]
    tones = [0.3 * np.sin(2 * np.pi * pitch * time) * np.hanning(len(time)) for pitch in pitches]
    noise = np.random.default_rng(len(text)).standard_normal(len(tones) * len(time))
    return np.concatenate(tones) + 0.01 * noise


def write_corpus(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for split, count in {"train": 32, "dev": 6, "test_a": 8, "test_b": 6}.items():
        entries = []
        for index in range(count):
            text = " ".join(rng.choice(WORDS, rng.integers(1, 5)))
            samples = spelt(text)
            name = f"{split}{index}.wav"
            soundfile.write(folder / name, samples, 16_000)
            entries.append({"audio_filepath": name, "duration": len(samples) / 16_000, "text": text})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> RunFolder:
    """Trained for four seconds: good enough to recognise some words and not others."""
    settings = ds1.Config()
    config = replace(
        settings,
        network=replace(settings.network, batch_norm=True),
        optimizer=NesterovSettings(momentum=0.9, clip_norm=30.0),
        augment=AugmentSettings(spec_augment=True, freq_width_bins=20, time_width_frames=20),
        data=corpus,
        out=tmp_path_factory.mktemp("runs") / "tiny",
        iters=1,
        epochs=(10, 1, 1),
        learning_rates=(3e-3, 5e-4, 3e-4),
        hidden_size=64,
        device="cpu",
        batches=replace(settings.batches, max_batch_seconds=5.0, num_workers=0),
    )
    return ds1.run(config).folder


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process: exit status, stdout, stderr."""
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = 0 if end.code is None else int(end.code)
    out, err = capsys.readouterr()
    return status, out, err


def whole_text(run: RunFolder, path: Path) -> str:
    """What the recogniser hears in a file taken whole, alone: no streaming, no batching."""
    trained = load_recogniser(run, device="cpu")
    samples = read_audio(path).samples
    with torch.inference_mode():
        outputs = trained.recogniser.log_probs(trained.model, samples[None], torch.tensor([len(samples)]))
    return trained.recogniser.texts(*outputs)[0]


# the table of commands ----------------------------------------------------------------------------


def test_help_names_every_command_and_how_to_train(capsys):
    status, out, _ = call(capsys, "--help")
    assert status == 0
    assert "python -m seqdsd.recipes.ds1" in out and "python -m seqdsd.recipes.neuraltalk" in out
    for name, entry in COMMANDS.items():
        assert f"{name} " in out and entry.summary in out


def test_version(capsys):
    assert call(capsys, "--version") == (0, f"seqdsd {__version__}\n", "")


def test_it_is_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "seqdsd", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"seqdsd {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(capsys, name):
    status, out, _ = call(capsys, name, "--help")
    assert status == 0
    assert any(f"  seqdsd {name} {what}/" in out for what in ("runs", "recipes", "data"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["evaluate"],
        ["transcribe", "run"],
        ["caption", "run"],
        ["compare"],
        ["sweep", "ds1"],
    ],
)
def test_a_wrong_command_line_ends_with_status_2(capsys, arguments):
    status, out, err = call(capsys, *arguments)
    assert status == 2
    assert out == "" and err != ""


def test_help_does_not_wait_for_torch():
    code = "import sys, seqdsd.cli as cli; cli._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# evaluate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["Dense Iter 0", "Sparse Iter 1", "dense-iter-1"])
def test_evaluate_gives_what_the_run_recorded(run, capsys, tmp_path, phase):
    hyps = tmp_path / "hyps.jsonl"
    status, out, _ = call(capsys, "evaluate", run.path, "--phase", phase, "--json", "--hyps", hyps)
    assert status == 0
    found = json.loads(out)
    record = next(
        one
        for one in run.read_phases()
        if one["name"].lower().replace(" ", "-") == phase.lower().replace(" ", "-")
    )
    assert found["phase"] == record["name"]
    for split in ("test_a", "test_b"):
        assert found[split] == record[split]  # rates, counts, loss and signature, to the last digit
        written = [
            {key: row[key] for key in ("id", "ref", "hyp")}
            for row in read_json_lines(hyps)
            if row["split"] == split
        ]
        assert written == list(read_json_lines(run.hypotheses(record["name"], split)))


def test_the_run_is_neither_perfect_nor_deaf(run):
    """Else the comparisons in this file would mean little."""
    best = min(run.read_phases(), key=lambda record: record["dev"]["wer"])
    assert 0 < best["test_a"]["wer"] < 0.9


def test_evaluate_prints_counts_signature_phase_and_command(run, corpus, capsys):
    status, out, _ = call(capsys, "evaluate", run.path, "--data", corpus / "test_a.jsonl")
    best = min(run.read_phases(), key=lambda record: record["dev"]["wer"])
    words = best["test_a"]
    assert status == 0
    row = next(line for line in out.splitlines() if "WER" in line)
    counts = [
        words[name]
        for name in ("hits", "substitutions", "deletions", "insertions", "ref_words", "utterances")
    ]
    numbers = row.replace("│", " ").split()
    assert numbers == ["test_a", "WER", f"{100 * words['wer']:.2f}", *map(str, counts)]
    assert f"phase     {best['name']}\n" in out
    assert words["signature"] in out
    assert f"command   seqdsd evaluate {run.path} --data {corpus}/test_a.jsonl\n" in out
    assert "test_b" not in out


def test_evaluate_another_split_and_batch_size(run, capsys):
    status, out, _ = call(
        capsys, "evaluate", run.path, "--split", "dev", "--json", "--max-batch-seconds", "2.5"
    )
    best = min(run.read_phases(), key=lambda record: record["dev"]["wer"])
    assert status == 0
    assert json.loads(out)["dev"]["wer"] == best["dev"]["wer"]


def test_evaluate_helps_with_the_runs_own_kind(run, capsys):
    status, out, _ = call(capsys, "evaluate", run.path, "--help")
    assert status == 0
    assert "--max-batch-seconds" in out and "--max-words" not in out


def test_evaluate_can_skip_what_cannot_be_read(run, corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / "data")
    (tmp_path / "data" / "test_a3.wav").write_bytes(b"RIFF")
    asked = ("evaluate", run.path, "--data", tmp_path / "data" / "test_a.jsonl", "--json")
    status, out, err = call(capsys, *asked)
    assert (status, out) == (1, "")
    assert "test_a.jsonl:4" in err and "test_a3.wav" in err
    status, out, _ = call(capsys, *asked, "--on-bad-data", "skip")
    assert status == 0
    assert (json.loads(out)["skipped"], json.loads(out)["test_a"]["utterances"]) == (1, 7)

    for path in (tmp_path / "data").glob("test_a*.wav"):
        path.write_bytes(b"RIFF")
    status, _, err = call(capsys, *asked, "--on-bad-data", "skip")
    assert status == 1
    assert "none of its utterances can be read" in err


# transcribe ---------------------------------------------------------------------------------------


def test_transcribe_hears_what_evaluate_hears(run, corpus, capsys):
    best = min(run.read_phases(), key=lambda record: record["dev"]["wer"])
    hyps = {row["id"]: row["hyp"] for row in read_json_lines(run.hypotheses(best["name"], "test_a"))}
    paths = [corpus / f"{name}.wav" for name in hyps]
    status, out, err = call(capsys, "transcribe", run.path, *paths)
    assert (status, err) == (0, "")
    assert out == "".join(f"{path}\t{hyps[path.stem]}\n" for path in paths)


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"),
    [
        ("a.flac", 16_000, 1),
        ("a.mp3", 16_000, 1),
        ("a.wav", 8_000, 1),
        ("a.WAV", 44_100, 2),
        ("a.ogg", 16_000, 1),
    ],
)
def test_transcribe_any_format_and_rate(run, tmp_path, capsys, name, rate_hz, channels):
    samples = spelt("cab deaf ace", rate_hz)
    soundfile.write(tmp_path / name, np.stack([samples] * channels, axis=1), rate_hz)
    status, out, _ = call(capsys, "transcribe", run.path, tmp_path, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["audio_filepath"] == str(tmp_path / name)
    assert found["duration"] == pytest.approx(len(samples) / rate_hz, abs=0.05)
    assert found["text"] == whole_text(run, tmp_path / name) != ""


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_transcribe_finds_and_reads_what_ffmpeg_decodes(run, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", spelt("cab deaf ace"), 16_000)
    (tmp_path / "phone").mkdir()
    ffmpeg = ["ffmpeg", "-loglevel", "error", "-i", tmp_path / "a.wav", tmp_path / "phone/a.M4A"]
    subprocess.run(ffmpeg, check=True)
    status, out, _ = call(capsys, "transcribe", run.path, tmp_path / "phone")
    assert (status, out) == (0, f"{tmp_path / 'phone/a.M4A'}\t{whole_text(run, tmp_path / 'a.wav')}\n")


def test_transcribe_cuts_a_long_recording(run, tmp_path, capsys):
    samples = np.concatenate([np.append(spelt(f"{word} ace"), np.zeros(4_000)) for word in WORDS * 8])
    samples += 0.001 * np.random.default_rng(0).standard_normal(len(samples))
    seconds = len(samples) / 16_000
    assert seconds > 30
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    _, out, _ = call(
        capsys, "transcribe", run.path, tmp_path / "long.wav", "--json", "--max-piece-seconds", 8
    )
    found = json.loads(out)
    segments = found["segments"]
    assert found["duration"] == pytest.approx(seconds, abs=1e-3)
    assert (segments[0]["start"], segments[-1]["end"]) == (0, found["duration"])
    assert [one["end"] for one in segments[:-1]] == [one["start"] for one in segments[1:]]
    assert all(0.05 <= one["end"] - one["start"] <= 8 for one in segments)
    assert found["text"] == " ".join(one["text"] for one in segments if one["text"]) != ""
    second = segments[1]
    first, last = (round(second[end] * 16_000) for end in ("start", "end"))
    soundfile.write(
        tmp_path / "second.wav", read_audio(tmp_path / "long.wav").samples[first:last].numpy(), 16_000
    )
    assert second["text"] == whole_text(run, tmp_path / "second.wav")


def test_folders_are_searched_in_order_and_bad_files_do_not_stop_the_rest(run, corpus, tmp_path, capsys):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    shutil.copy(corpus / "test_a0.wav", tmp_path / "b" / "deep" / "z.wav")
    shutil.copy(corpus / "test_a1.wav", tmp_path / "b" / "c.wav")
    (tmp_path / "b" / "notes.txt").write_text("no recording")
    (tmp_path / "b" / "broken.flac").write_bytes(b"no flac")
    soundfile.write(tmp_path / "b" / "cut.flac", spelt("bad deaf"), 16_000)
    content = (tmp_path / "b" / "cut.flac").read_bytes()
    (tmp_path / "b" / "cut.flac").write_bytes(content[: len(content) // 2])
    status, out, err = call(capsys, "transcribe", run.path, tmp_path / "gone.wav", tmp_path / "b")
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(tmp_path / "b" / name) for name in ("c.wav", "deep/z.wav")
    ]
    for name in ("gone.wav", "broken.flac", "cut.flac"):
        assert sum(name in line for line in err.splitlines()) == 1
    assert "notes" not in err


def test_names_that_a_terminal_or_utf8_cannot_take_leave_the_other_recordings_alone(
    run, corpus, tmp_path, capsys
):
    for name in (b"caf\xe9.wav", b"red\x1b[31m.wav", b"z.wav"):
        shutil.copy(corpus / "test_a0.wav", os.path.join(os.fsencode(tmp_path), name))
    status, out, err = call(capsys, "transcribe", run.path, tmp_path)
    assert status == 1 and out.startswith(f"{tmp_path / 'z.wav'}\t") and len(out.splitlines()) == 1
    assert r"caf\udce9.wav: control characters, or not UTF-8, in its name. Rename it" in err
    assert r"red\x1b[31m.wav: " in err and "\x1b[31m" not in err
    status, _, err = call(capsys, "build-lm", tmp_path / "red\x1b[31m.jsonl", "--out", tmp_path / "lm.arpa")
    assert status == 1 and r"red\x1b[31m.jsonl: cannot open" in err


def test_brackets_in_names_are_no_markup(run, corpus, tmp_path, capsys):
    manifest = corpus / "[red].jsonl"
    shutil.copy(corpus / "test_a.jsonl", manifest)
    status, out, _ = call(capsys, "evaluate", run.path, "--data", manifest)
    assert status == 0 and any(line.split()[:2] == ["[red]", "WER"] for line in out.splitlines())
    status, out, _ = call(capsys, "build-lm", manifest, "--out", tmp_path / "[red].arpa")
    manifest.unlink()
    assert status == 0 and out.startswith(f"{tmp_path}/[red].arpa: ")


@pytest.mark.parametrize("cut", [{"type": "MonoCut"}, {"supervisions": {}}, {"supervisions": [5]}])
def test_cuts_without_supervisions_make_no_language_model(tmp_path, capsys, cut):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
    status, _, err = call(capsys, "build-lm", tmp_path / "cuts.jsonl", "--out", tmp_path / "lm.arpa")
    assert status == 1 and "cuts.jsonl:1: no transcript; every line needs a text" in err


def test_a_recording_shorter_than_a_window_gives_no_text_and_a_note(run, corpus, tmp_path, capsys):
    soundfile.write(tmp_path / "click.wav", np.full(319, 0.1), 16_000)
    status, out, err = call(
        capsys, "transcribe", run.path, tmp_path / "click.wav", corpus / "test_a0.wav", "--json"
    )
    click, other = map(json.loads, out.splitlines())
    assert status == 0
    assert click == {"audio_filepath": f"{tmp_path}/click.wav", "duration": 0.02, "text": "", "segments": []}
    assert other["segments"]
    assert "click.wav" in err and "319 samples" in err


def test_transcribe_holds_no_more_than_a_batch(run, corpus):
    """Recordings are opened only as their turn comes, and no batch is over its budget."""
    opened, decoded = [], []

    def paths():
        for _ in range(100):
            opened.append(corpus / "test_a0.wav")
            yield opened[-1]

    seconds = soundfile.info(corpus / "test_a0.wav").duration
    transcripts = transcribe(
        load_recogniser(run, device="cpu"),
        paths(),
        max_piece_seconds=2.0,
        max_batch_seconds=6.0,
        on_decoded=decoded.append,
    )
    next(transcripts)
    assert len(opened) <= 6.0 / seconds + 1
    assert len(list(transcripts)) == 99
    assert max(decoded) <= 6.0
    assert sum(decoded) == pytest.approx(100 * seconds)


def test_the_command_as_users_start_it(run, corpus, tmp_path):
    soundfile.write(tmp_path / "eight.wav", spelt("bad", 8_000), 8_000)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "seqdsd.cli",
            "transcribe",
            run.path,
            tmp_path / "eight.wav",
            corpus / "gone.wav",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path}/eight.wav\t{whole_text(run, tmp_path / 'eight.wav')}\n"
    assert "gone.wav" in done.stderr and "8000 Hz" in done.stderr
    assert "Traceback" not in done.stderr


# times of words -----------------------------------------------------------------------------------


def test_words_are_found_where_they_were_said(run, corpus, capsys):
    """Letters last 0.1 s each, after 0.1 s of silence; CTC's peaks lie somewhere in their sounds."""
    checked = 0
    manifest = [json.loads(line) for line in (corpus / "test_a.jsonl").read_text().splitlines()]
    status, out, _ = call(
        capsys,
        "transcribe",
        run.path,
        *(corpus / entry["audio_filepath"] for entry in manifest),
        "--timestamps",
        "json",
    )
    assert status == 0
    for entry, line in zip(manifest, out.splitlines(), strict=True):
        found = json.loads(line)
        [segment] = found["segments"]
        assert [word["word"] for word in segment["words"]] == segment["text"].split()
        if segment["text"].split() != entry["text"].split():
            continue
        position = 1
        for word in segment["words"]:
            start, end = LETTER_SECONDS * position, LETTER_SECONDS * (position + len(word["word"]))
            assert start - 0.04 <= word["start"] <= start + LETTER_SECONDS  # within its first letter
            assert end - LETTER_SECONDS <= word["end"] <= end + 0.04
            assert 0 < word["confidence"] <= 1
            position += len(word["word"]) + 1
            checked += 1
    assert checked > 3


@pytest.mark.parametrize("name", ["srt", "vtt", "ctm"])
def test_subtitles_go_to_a_folder_a_file_each(run, corpus, tmp_path, capsys, name):
    files = [corpus / "test_a0.wav", corpus / "test_a1.wav"]
    status, out, _ = call(
        capsys, "transcribe", run.path, *files, "--timestamps", name, "--out", tmp_path / "new"
    )
    assert (status, out) == (0, "")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"test_a0.{name}", f"test_a1.{name}"}
    status, out, _ = call(capsys, "transcribe", run.path, files[0], "--timestamps", name)
    assert (status, out) == (0, (tmp_path / "new" / f"test_a0.{name}").read_text())


def test_times_in_a_long_recording_are_the_recordings(run, tmp_path, capsys):
    long = np.concatenate([spelt("bad cab"), np.zeros(16_000), spelt("fed ace")])
    soundfile.write(tmp_path / "long.wav", long, 16_000)
    status, out, _ = call(
        capsys,
        "transcribe",
        run.path,
        tmp_path / "long.wav",
        "--timestamps",
        "json",
        "--max-piece-seconds",
        "1.5",
    )
    segments = json.loads(out)["segments"]
    assert status == 0 and len(segments) > 1
    for segment in segments:
        for word in segment["words"]:
            assert segment["start"] <= word["start"] < word["end"] <= segment["end"] + 0.02


def test_what_would_land_in_one_file_is_refused(run, corpus, tmp_path, capsys):
    files = [corpus / "test_a0.wav", corpus / "test_a1.wav"]
    status, _, err = call(capsys, "transcribe", run.path, *files, "--timestamps", "srt")
    assert status == 1 and "subtitles are a file each" in err
    shutil.copy(files[0], tmp_path / "test_a0.wav")
    status, _, err = call(
        capsys, "transcribe", run.path, files[0], tmp_path / "test_a0.wav", "--out", tmp_path / "out"
    )
    assert status == 1 and "would both be test_a0.txt" in err and not (tmp_path / "out").exists()


# language models ----------------------------------------------------------------------------------


NEEDS_FLASHLIGHT = pytest.mark.skipif(
    find_spec("flashlight") is None, reason="needs flashlight-text (pip install 'seqdsd[lm]')"
)


@pytest.fixture
def arpa(corpus, tmp_path, capsys) -> Path:
    """Of the training transcripts."""
    pytest.importorskip(
        "flashlight.lib.text.decoder", reason="needs flashlight-text (pip install 'seqdsd[lm]')"
    )
    status, out, err = call(capsys, "build-lm", corpus / "train.jsonl", "--out", tmp_path / "words.arpa")
    assert status == 0, err
    assert "of 32 sentences" in out
    return tmp_path / "words.arpa"


def wer_of(capsys, *arguments: object) -> float:
    status, out, err = call(capsys, "evaluate", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)["test_a"]["wer"]


def test_a_language_model_helps(run, corpus, arpa, capsys):
    data = corpus / "test_a.jsonl"
    assert wer_of(capsys, run.path, "--data", data, "--lm", arpa) < wer_of(capsys, run.path, "--data", data)


def test_decoding_is_said_in_the_signature(run, corpus, arpa, capsys):
    data = ("--data", corpus / "test_a.jsonl")
    for flags, said in (
        ([], "|max decoding\n"),
        (["--beam", 8], "|beam 8\n"),
        (
            ["--lm", arpa, "--word-bonus", 1],
            f"|beam 100|lm words.arpa {digest_of(arpa)[:8]} weight 1|word bonus 1\n",
        ),
    ):
        assert said in call(capsys, "evaluate", run.path, *data, *flags)[1]


def test_weights_are_found_on_dev_and_used_from_then_on(run_copy, corpus, arpa, capsys):
    (corpus / "test_a.jsonl").rename(corpus / "hidden")
    try:
        status, out, err = call(
            capsys,
            "tune-decoding",
            run_copy.path,
            "--lm",
            arpa,
            "--lm-weights",
            0.5,
            1,
            "--word-bonuses",
            0,
            2,
        )
    finally:
        (corpus / "hidden").rename(corpus / "test_a.jsonl")
    assert status == 0, err
    assert "dev WER" in out and f"seqdsd evaluate {run_copy.path} --lm {arpa}" in out
    data = ("--data", corpus / "dev.jsonl", "--split", "dev", "--lm", arpa)
    rates = {}
    for weight in (0.5, 1):
        for bonus in (0, 2):
            flags = ("--lm-weight", weight, "--word-bonus", bonus, "--json")
            rates[weight, bonus] = json.loads(call(capsys, "evaluate", run_copy.path, *data, *flags)[1])[
                "dev"
            ]["wer"]
    tuned = json.loads(call(capsys, "evaluate", run_copy.path, *data, "--json")[1])["dev"]
    assert tuned["wer"] == min(rates.values())
    best = next(pair for pair, rate in rates.items() if rate == tuned["wer"])
    assert (
        tuned["decoding"]
        == f"beam 100|lm words.arpa {digest_of(arpa)[:8]} weight {best[0]:g}|word bonus {best[1]:g}"
    )


def test_weights_of_another_language_model_are_not_used(run_copy, corpus, arpa, tmp_path, capsys):
    options = ("--lm-weights", 0.5, "--word-bonuses", 2)
    assert call(capsys, "tune-decoding", run_copy.path, "--lm", arpa, *options)[0] == 0
    other = tmp_path / "other.arpa"
    other.write_text(arpa.read_text().replace("-0.", "-0.1", 1))
    status, out, _ = call(
        capsys, "evaluate", run_copy.path, "--data", corpus / "test_a.jsonl", "--lm", other, "--json"
    )
    assert (
        json.loads(out)["test_a"]["decoding"]
        == f"beam 100|lm other.arpa {digest_of(other)[:8]} weight 1|word bonus 0"
    )
    run_copy.decoding.write_text("lm = 3\n")
    status, _, err = call(capsys, "evaluate", run_copy.path, "--lm", arpa)
    assert status == 1 and "decoding.toml" in err and "run seqdsd tune-decoding again" in err


def test_transcribe_with_a_language_model_and_hot_words(run, corpus, arpa, capsys):
    files = sorted(corpus.glob("test_a*.wav"))
    found = {}
    for bonus in (0, 60):
        options = ("--lm", arpa, "--hot-words", "dead", "--hot-word-bonus", bonus)
        status, out, _ = call(capsys, "transcribe", run.path, *files, *options)
        assert status == 0
        found[bonus] = {word for line in out.splitlines() for word in line.split("\t")[1].split()}
    assert found[0] <= set(WORDS)
    assert "dead" in found[60] <= {*WORDS, "dead"}


@pytest.fixture(scope="module")
def subword_run(run, corpus, tmp_path_factory) -> RunFolder:
    """As ``run``, but it spells with pieces, of which "▁bad" is a whole word."""
    config = replace(
        read_config(run.config, ds1.Config()),
        out=tmp_path_factory.mktemp("runs") / "subwords",
        iters=0,
        epochs=(10,),
        learning_rates=(3e-3,),
        tokenizer=ds1.TokenizerSettings(kind="subwords", vocab_size=13),
    )
    return ds1.run(config).folder


def test_a_language_model_beside_subwords_from_tuning_to_word_times(
    subword_run, corpus, arpa, tmp_path, capsys
):
    path, data = subword_run.path, ("--data", corpus / "test_a.jsonl")
    weights = ("--lm-weights", 0.5, 1, "--word-bonuses", 0)
    status, out, err = call(capsys, "tune-decoding", path, "--lm", arpa, *weights)
    assert status == 0 and "dev WER" in out, err
    assert RunFolder(path).decoding.is_file()
    # The corpus' words stand in no order: only a model of the very sentences can help.
    said = tmp_path / "said.arpa"
    assert call(capsys, "build-lm", corpus / "test_a.jsonl", "--out", said)[0] == 0
    assert wer_of(capsys, path, *data, "--lm", said, "--lm-weight", 2) < wer_of(capsys, path, *data)
    files = sorted(corpus.glob("test_a*.wav"))
    status, out, err = call(capsys, "transcribe", path, *files, "--lm", arpa, "--timestamps", "json")
    assert status == 0, err
    heard = [json.loads(line) for line in out.splitlines()]
    assert {word for one in heard for word in one["text"].split()} <= set(WORDS)
    for one in heard:
        assert " ".join(word["word"] for part in one["segments"] for word in part["words"]) == one["text"]
    assert seqdsd.load(path, lm=arpa).transcribe(files) == [one["text"] for one in heard]
    hot = ("--hot-words", "dead", "--hot-word-bonus", 60)
    assert "dead" in call(capsys, "transcribe", path, *files, "--lm", arpa, *hot)[1]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--lm-weight", 1], "lm_weight needs a language model"),
        (["--hot-words", "bad"], "hot_words needs a language model"),
        (["--beam", 0], "beam must be at least 1"),
        pytest.param(["--lm", "nowhere.arpa"], "nowhere.arpa", marks=NEEDS_FLASHLIGHT),
    ],
)
def test_decoding_that_cannot_be_is_refused(run, corpus, capsys, flags, what):
    status, _, err = call(capsys, "evaluate", run.path, "--data", corpus / "test_a.jsonl", *flags)
    assert status != 0 and what in " ".join(err.replace("│", " ").split())


def test_build_lm_reads_text_and_names_a_bad_line(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_text("It's “one”, TWO.\n\nThree-four!\n")
    assert call(capsys, "build-lm", text, "--out", tmp_path / "book.arpa", "--order", 2)[0] == 0
    for word in ("it's", "one", "two", "three", "four"):
        assert f"\t{word}\t" in (tmp_path / "book.arpa").read_text()
    manifest = tmp_path / "bad.jsonl"
    for bad in ('{"txt": "two"}', '{"text": null}', "two", '{"text": "<s>"}'):
        manifest.write_text(f'{{"text": "one"}}\n{bad}\n')
        status, _, err = call(capsys, "build-lm", manifest, "--out", tmp_path / "none.arpa")
        assert status == 1 and f"{manifest}:2" in err.replace("\n", "")
    assert not (tmp_path / "none.arpa").exists()


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["evaluate"], ["evaluate", "--beam", "3"], ["transcribe", "some.wav"], ["caption", "some.jpg"]],
)
def test_a_folder_that_is_no_run(tmp_path, capsys, command):
    status, out, err = call(capsys, command[0], tmp_path, *command[1:])
    assert (status, out) == (1, "")
    assert str(tmp_path) in err and "not a run folder" in err


@pytest.mark.parametrize("command", [["compare", "ds9"], ["sweep", "ds9", "--sparsities", "0.5"]])
def test_a_recipe_that_is_not_there(capsys, command):
    status, out, err = call(capsys, *command)
    assert (status, out) == (1, "")
    assert "error: ds9: neither a settings file nor a recipe; recipes are ds1, ds2, neuraltalk" in err


def test_a_manifest_that_is_not_there(run, tmp_path, corpus, capsys):
    status, _, err = call(capsys, "evaluate", run.path, "--data", corpus, "--split", "tset")
    assert status == 1
    assert "tset.jsonl" in err and "dev.jsonl, test_a.jsonl, test_b.jsonl" in err


def test_a_folder_without_recordings(run, tmp_path, capsys):
    status, _, err = call(capsys, "transcribe", run.path, tmp_path)
    assert status == 1
    assert "no recording" in err and ".flac" in err


def test_a_recogniser_does_not_caption(run, capsys):
    status, out, err = call(capsys, "caption", run.path, "photo.jpg")
    assert (status, out) == (1, "")
    assert "ds1" in err and "seqdsd transcribe" in err


def test_damaged_weights(run_copy, corpus, capsys):
    weights = run_copy.weights("Dense Iter 1")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    status, out, err = call(
        capsys, "transcribe", run_copy.path, corpus / "test_a0.wav", "--phase", "Dense Iter 1"
    )
    assert (status, out) == (1, "")
    assert weights.name in err and "damaged" in err and "'Sparse Iter 1'" in err


INTERRUPTED_IMPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "seqdsd.reports.page":  # a real Ctrl-C, while a command is imported
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from seqdsd.cli import main
main(["report", "runs"])
"""


def test_ctrl_c_while_modules_are_imported_is_one_line():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; seqdsd report can be started again\n"


def test_a_search_too_wide_is_refused(run, corpus, capsys):
    status, _, err = call(capsys, "transcribe", run.path, corpus / "test_a0.wav", "--beam", 10**9)
    assert status != 0 and "beam must be at most 10000, got 1000000000" in " ".join(
        err.replace("│", " ").split()
    )
