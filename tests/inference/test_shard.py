"""``seqdsd shard``, and training from what it writes, on tones and on real speech."""

import csv
import gzip
import json
import os
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from seqdsd.audio import read_segment
from seqdsd.cli import main
from seqdsd.data import (
    SpeechDataset,
    Utterance,
    find_splits,
    read_corpus,
    read_split,
    shard_bytes,
    write_manifest,
)
from seqdsd.data.shard_bytes import read_member
from seqdsd.data.shards import INDEX_NAME
from seqdsd.engine import StopRequested, load_checkpoint
from seqdsd.recipes import ds1
from seqdsd.tasks import SpeechTask
from seqdsd.text import CharacterTokenizer

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data"))
TOKENIZER = CharacterTokenizer()


def call(capsys, *arguments: object) -> tuple[int, str]:
    """Run ``seqdsd shard`` in this process: exit status, and all that it says, without line breaks."""
    status = 0
    try:
        main(["shard", *(str(argument) for argument in arguments)])
    except SystemExit as end:
        status = 0 if end.code is None else int(end.code)
    out, err = capsys.readouterr()
    return status, " ".join((out + err).replace("│", " ").split())


@pytest.fixture
def shards(tone_corpus, tmp_path, capsys) -> Path:
    """Four or five tones a shard."""
    status, said = call(capsys, tone_corpus.folder, tmp_path / "shards", "--shard-mb", 0.15)
    assert status == 0, said
    return tmp_path / "shards"


def samples_by_id(folder: Path, split: str) -> dict[str, torch.Tensor]:
    utterances = read_split(find_splits(folder)[split]).utterances
    dataset = SpeechDataset(utterances, TOKENIZER)
    return {one.id: dataset[index].samples for index, one in enumerate(utterances)}


def facts(folder: Path, split: str) -> set[tuple]:
    utterances = read_split(find_splits(folder)[split]).utterances
    return {(one.id, one.text, one.duration_seconds, one.speaker) for one in utterances}


def assert_same_samples(one: Path, other: Path, split: str) -> None:
    mine, theirs = samples_by_id(one, split), samples_by_id(other, split)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[id_], theirs[id_]) for id_ in mine)


# writing -----------------------------------------------------------------------------------------


def test_every_split_comes_out_as_it_went_in(tone_corpus, shards):
    for split in ("train", "dev", "test"):
        assert facts(shards, split) == facts(tone_corpus.folder, split)
        assert_same_samples(shards, tone_corpus.folder, split)
    assert read_corpus(shards).test.keys() == {"test"}


def test_the_order_is_the_seed_s(tone_corpus, shards, tmp_path, capsys):
    for seed in (0, 1):
        out = tmp_path / f"seed{seed}"
        assert call(capsys, tone_corpus.folder, out, "--shard-mb", 0.15, "--seed", seed)[0] == 0
        same = [
            path.read_bytes() == (out / "train" / path.name).read_bytes()
            for path in (shards / "train").iterdir()
        ]
        assert len(same) > 4 and all(same) == (seed == 0)
    ids = [one.id for one in read_split(shards / "train").utterances]
    assert ids != sorted(ids) == [f"train{number:02d}" for number in range(24)]


def test_parts_are_cut_and_files_of_no_name_become_flac(tmp_path, capsys):
    """In 16 bits and at the rate of the recording; a compressed file stays as it is."""
    talk = np.random.default_rng(0).integers(-(2**15), 2**15, 4 * 8000).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", talk, 8000)
    soundfile.write(tmp_path / "odd", talk[:4000], 8000, format="WAV", subtype="PCM_16")
    soundfile.write(tmp_path / "WHOLE.OGG", 0.1 * np.sin(np.arange(8000)), 16_000)
    data = tmp_path / "data"
    data.mkdir()
    entries = [
        {"audio_filepath": str(tmp_path / "talk.wav"), "duration": 1.5, "text": "one", "offset": 0},
        {"audio_filepath": str(tmp_path / "talk.wav"), "duration": 1.25, "text": "two", "offset": 2.5},
        {"audio_filepath": str(tmp_path / "odd"), "duration": 0.5, "text": "three"},
        {"audio_filepath": str(tmp_path / "WHOLE.OGG"), "duration": 0.5, "text": "four"},
    ]
    (data / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert call(capsys, data, tmp_path / "shards")[0] == 0
    made = {one.text: one for one in read_split(tmp_path / "shards" / "train").utterances}
    suffixes = {text: Path(one.member.name).suffix for text, one in made.items()}
    assert suffixes == {"one": ".flac", "two": ".flac", "three": ".flac", "four": ".ogg"}
    assert read_member(made["four"].member).data == (tmp_path / "WHOLE.OGG").read_bytes()
    cut = tmp_path / "cut.flac"
    cut.write_bytes(read_member(made["two"].member).data)
    samples, rate_hz = soundfile.read(cut, dtype="int16")
    assert rate_hz == 8000 and np.array_equal(samples, talk[20_000:30_000])
    whole = read_segment(tmp_path / "talk.wav", start_seconds=2.5, seconds=1.25)
    assert torch.equal(SpeechDataset([made["two"]], TOKENIZER)[0].samples, whole.samples)


def test_shards_can_be_shards_again(shards, tmp_path, capsys):
    """In another size."""
    assert call(capsys, shards, tmp_path / "again")[0] == 0
    assert len(list((tmp_path / "again" / "train").glob("*.tar"))) == 1
    assert facts(tmp_path / "again", "train") == facts(shards, "train")
    assert_same_samples(tmp_path / "again", shards, "train")


def test_a_split_that_is_there_is_not_touched(tone_corpus, shards, capsys):
    before = (shards / "train" / INDEX_NAME).read_bytes()
    status, said = call(capsys, tone_corpus.folder, shards, "--seed", 1)
    assert status == 1 and "is there already. Take another OUT" in said
    assert (shards / "train" / INDEX_NAME).read_bytes() == before
    status, said = call(capsys, tone_corpus.folder, tone_corpus.folder)  # beside its own manifests
    assert status == 1 and "is there already" in said and not list(tone_corpus.folder.rglob("*.tar"))


def test_bad_audio_stops_it_and_leaves_nothing_or_is_left_out(tone_corpus, tmp_path, capsys, caplog):
    path = tone_corpus.folder / "train" / "train05.wav"
    path.write_bytes(path.read_bytes()[:9000])
    status, said = call(capsys, tone_corpus.folder, tmp_path / "shards", "--shard-mb", 0.05)
    assert status == 1
    for part in ("train.jsonl:6: utterance train05: ", str(path), "truncated", "--on-bad-data skip"):
        assert part in said
    assert "train" not in find_splits(tmp_path / "shards") and not (tmp_path / "shards" / "train").exists()
    status, said = call(capsys, tone_corpus.folder, tmp_path / "new", "--on-bad-data", "skip")
    assert status == 0 and "train: 23 utterances" in said and "; 1 left out" in said
    assert "skipped: train.jsonl:6: utterance train05" in caplog.text
    assert len(read_split(tmp_path / "new" / "train").utterances) == 23
    for broken in (tone_corpus.folder / "dev").iterdir():
        broken.write_bytes(b"RIFF")
    status, said = call(capsys, tone_corpus.folder, tmp_path / "none", "--on-bad-data", "skip")
    assert status == 1 and "no utterance is left for the shards. The first: dev.jsonl" in said


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "give DATA and OUT, or --index FOLDER"),
        (("data",), "give DATA and OUT, or --index FOLDER"),
        (("data", "out", "--index", "folder"), "give DATA and OUT, or --index FOLDER"),
        (("data", "out", "--base", "https://x/"), "it goes with --index"),
        (("--index", "folder", "--base", "s3://x/train"), "'s3://x/train' is no folder's URL"),
        (("--index", "folder", "--base", "https://x/train?key=1"), "is no folder's URL"),
        (("data", "out", "--shard-mb", 0), "shard_mb must be above 0 and finite, got 0"),
        (("data", "out", "--shard-mb", "inf"), "shard_mb must be above 0 and finite, got inf"),
        (("nowhere", "out"), "nowhere: no manifest here"),
        (("--index", "nowhere"), "nowhere: no *.tar in this folder"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    status, said = call(capsys, *arguments)
    assert status != 0 and what in said, said


# an index of shards that are there ---------------------------------------------------------------


def test_an_index_made_anew_is_the_same(shards, capsys):
    path = shards / "train" / INDEX_NAME
    before = path.read_bytes()
    path.unlink()
    status, said = call(capsys, "--index", shards / "train")
    assert (status, said) == (0, "train: 24 utterances, 0.00 h, 0.001 GB in 4 shards")
    assert path.read_bytes() == before


def test_a_base_needs_the_index_alone(shards, capsys):
    folder = shards / "train"
    for path in folder.glob("*.tar"):
        path.unlink()
    assert call(capsys, "--index", folder, "--base", "https://example.org/my%20corpus/train")[0] == 0
    read = read_split(folder).utterances
    assert read[0].audio_path == "https://example.org/my%20corpus/train/000000.tar" and len(read) == 24
    first, second = gzip.decompress((folder / INDEX_NAME).read_bytes()).splitlines()[:2]
    assert json.loads(first)["base"] == "https://example.org/my%20corpus/train/"
    assert json.loads(second)["file"] == "000000.tar"


def test_what_cannot_be_indexed_is_said(shards, capsys, caplog):
    folder = shards / "dev"
    (folder / "again.tar").write_bytes((folder / "000000.tar").read_bytes())
    status, said = call(capsys, "--index", folder)
    assert (
        status == 1 and "again.tar: " in said and "000000.tar already. Give every utterance its own" in said
    )
    with tarfile.open(folder / "again.tar", "w") as tar:
        tar.add(shards / "dev" / INDEX_NAME, "a.wav")
    status, said = call(capsys, "--index", folder)
    assert status == 1 and "again.tar: a: no transcript" in said
    status, said = call(capsys, "--index", folder, "--on-bad-data", "skip")
    assert status == 0 and "dev: 6 utterances" in said and "in 1 shard; 1 left out" in said
    assert "skipped: " in caplog.text


# training ----------------------------------------------------------------------------------------


def run(config, resume=False):
    return ds1.run(config, resume=resume, console=Console(quiet=True))


def test_a_run_from_shards_goes_on_in_the_middle_of_an_epoch_to_the_same_bits(
    shards, tmp_path, tiny_ds1, monkeypatch
):
    def config(out):
        settings = tiny_ds1(shards, tmp_path / out, checkpoint_minutes=0.0)
        return replace(settings, batches=replace(settings.batches, open_shards=2))

    whole, loss, done = run(config("whole")), SpeechTask.loss, []
    stops = [4, 19]  # in the first epoch, by length, and in a later phase

    def stop(task, model, batch):
        if stops and len(done) == stops[0]:
            del stops[0]
            raise StopRequested
        done.append(batch.ids)
        return loss(task, model, batch)

    monkeypatch.setattr(SpeechTask, "loss", stop)
    for _ in range(2):
        with pytest.raises(StopRequested):
            run(config("run"), resume=True)
    result = run(config("run"), resume=True)
    assert not stops
    for name in ("dense-iter-0", "sparse-iter-1", "dense-iter-1"):
        mine, theirs = (
            load_checkpoint(one.folder.checkpoints / f"{name}.safetensors").tensors for one in (result, whole)
        )
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert [one["train_loss"] for one in result.phases] == [one["train_loss"] for one in whole.phases]
    assert result.phases[0]["train_loss"][1] < result.phases[0]["train_loss"][0]
    assert result.folder.audio.read_text() == ""  # what lies in shards, a report cannot play


def test_an_epoch_reads_few_shards_at_a_time(shards, tmp_path, tiny_ds1):
    """And evaluation goes by length over all of them, as without shards."""
    settings = tiny_ds1(shards, tmp_path)
    task = ds1.make_task(replace(settings, batches=replace(settings.batches, open_shards=1)))
    numbers = {one.id: one.member.shard.number for one in task.utterances("train")}
    for epoch in (0, 1):
        batches = [[numbers[id_] for id_ in batch.ids] for (batch,) in task.batches(epoch, first=0)]
        assert all(len(set(batch)) == 1 for batch in batches)
        assert sorted(sum(batches, [])) == sorted(numbers.values()) and len(batches) == task.num_batches
    lengths = [
        length
        for batch, _ in task.outputs(task.model, "train", torch.device("cpu"))
        for length in batch.num_samples.tolist()
    ]
    assert lengths == sorted(lengths) and len(lengths) == 24


@pytest.mark.parametrize("on_bad_data", ["error", "skip"])
def test_a_server_that_is_gone_stops_training_whatever_is_done_with_bad_data(
    shards, tmp_path, tiny_ds1, capsys, monkeypatch, on_bad_data
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shard_bytes, "PAUSES_SECONDS", (0.0, 0.0))
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))  # where nobody listens
        url = f"http://127.0.0.1:{port.getsockname()[1]}/train"
        call(capsys, "--index", shards / "train", "--base", url)
        config = tiny_ds1(shards, tmp_path / "run", on_bad_data=on_bad_data)
        with pytest.raises(
            ValueError, match=rf"{INDEX_NAME}:\d+: utterance .*{url}/.*refused.* --resume"
        ) as caught:
            run(config)
        assert "--on-bad-data" not in str(caught.value)
        status, said = call(capsys, shards, tmp_path / "copy", "--on-bad-data", on_bad_data)
        assert status == 1 and "refused" in said and not (tmp_path / "copy" / "train").exists()


def test_open_shards_must_be_some(tiny_ds1, tmp_path):
    with pytest.raises(ValueError, match="open_shards must be at least 1, got 0"):
        replace(tiny_ds1(tmp_path, tmp_path).batches, open_shards=0)


def test_evaluate_and_build_lm_take_shards(shards, tone_corpus, tmp_path, tiny_ds1, capsys):
    result = run(tiny_ds1(tone_corpus.folder, tmp_path / "run", iters=0, epochs=(1,)))
    scores = []
    for data in (tone_corpus.folder, shards, shards / "test"):
        main(["evaluate", str(result.folder.path), "--data", str(data), "--json"])
        scores.append(json.loads(capsys.readouterr().out)["test"])
    assert scores[0]["wer"] == scores[1]["wer"] == scores[2]["wer"]
    arpas = []
    for number, text in enumerate((tone_corpus.folder / "train.jsonl", shards / "train" / INDEX_NAME)):
        out = tmp_path / f"{number}.arpa"
        main(["build-lm", str(text), "--out", str(out)])
        arpas.append(out.read_text())
    assert arpas[0] == arpas[1]


# real speech -------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (DATA / "an4" / "test.tsv").is_file(), reason="AN4 is not here; set SEQDSD_DATA to its parent folder"
)
def test_real_speech(tmp_path, capsys):
    """Every test utterance of AN4, whole and, as a part of itself, cut."""
    with (DATA / "an4" / "test.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    (tmp_path / "an4").mkdir()
    for split, offset in {"test_whole": None, "test_cut": 0.25}.items():
        utterances = [
            Utterance(
                row["utt_id"],
                str((DATA / "an4" / row["path"]).resolve()),
                float(row["seconds"]) - 2 * (offset or 0),
                row["text"].lower(),
                row["speaker"],
                "",
                start_seconds=offset,
            )
            for row in rows
        ]
        write_manifest(tmp_path / "an4" / f"{split}.jsonl", utterances)
    assert call(capsys, tmp_path / "an4", tmp_path / "shards", "--shard-mb", 1)[0] == 0
    for split in ("test_whole", "test_cut"):
        assert len(list((tmp_path / "shards" / split).glob("*.tar"))) > 3
        assert facts(tmp_path / "shards", split) == facts(tmp_path / "an4", split)
        assert_same_samples(tmp_path / "shards", tmp_path / "an4", split)
