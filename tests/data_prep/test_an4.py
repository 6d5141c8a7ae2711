import os
import subprocess
import sys
from pathlib import Path

import an4
import pytest
import soundfile

from seqdsd.data.manifest import read_manifest

REPOSITORY = Path(__file__).parents[2]
TRAIN = {"fash": 6, "mblb": 5, "mxyz": 5, "few": 2}
TEST = {"fcaw": 3}


def rows(speakers):
    return [
        (speaker, f"an{number}-{speaker}-b") for speaker, count in speakers.items() for number in range(count)
    ]


@pytest.fixture
def tsv_corpus(tmp_path, make_audio):
    folder = tmp_path / "an4"
    for name, speakers in (("train", TRAIN), ("test", TEST)):
        lines = ["utt_id\tspeaker\tpath\tseconds\ttext"]
        for speaker, id_ in rows(speakers):
            make_audio(folder / name / speaker / f"{id_}.flac")
            lines.append(f"{id_}\t{speaker}\t{name}/{speaker}/{id_}.flac\t0.1\tRUBOUT G M")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(params=[".raw", ".sph"])
def official_corpus(request, tmp_path, make_audio):
    folder = tmp_path / "an4"
    (folder / "etc").mkdir(parents=True)
    for name, speakers, subfolder in (("train", TRAIN, "an4_clstk"), ("test", TEST, "an4test_clstk")):
        file_ids, transcripts = [], []
        for speaker, id_ in rows(speakers):
            file_ids.append(f"{subfolder}/{speaker}/{id_}")
            words = "RUBOUT G M"
            transcripts.append(f"<s> {words} </s> ({id_})" if name == "train" else f"{words} ({id_})")
            path = folder / "wav" / f"{file_ids[-1]}{request.param}"
            make_audio(path, format="NIST" if request.param == ".sph" else None)
        (folder / "etc" / f"an4_{name}.fileids").write_text("\n".join(file_ids) + "\n")
        (folder / "etc" / f"an4_{name}.transcription").write_text("\n".join(transcripts) + "\n")
    return folder


def check_small_corpus(out):
    splits = {name: read_manifest(out / f"{name}.jsonl").utterances for name in ("train", "dev", "test")}
    assert {u.text for utterances in splits.values() for u in utterances} == {"rubout g m"}
    assert {u.duration_seconds for utterances in splits.values() for u in utterances} == {0.1}
    assert len(splits["train"]) + len(splits["dev"]) == 18 and len(splits["test"]) == 3
    dev_speakers = {u.speaker for u in splits["dev"]}
    assert len(dev_speakers) == 2 and "few" not in dev_speakers
    assert not dev_speakers & {u.speaker for u in splits["train"]}
    return splits


def test_flac_form(tsv_corpus, tmp_path):
    an4.main(tsv_corpus, tmp_path / "out", dev_speakers=2)
    check_small_corpus(tmp_path / "out")
    assert not (tmp_path / "out" / "audio").exists()


def test_official_forms(official_corpus, tmp_path):
    an4.main(official_corpus, tmp_path / "out", dev_speakers=2)
    splits = check_small_corpus(tmp_path / "out")
    audio_path = Path(splits["test"][0].audio_path)
    if audio_path.suffix == ".flac":
        raw = official_corpus / "wav" / "an4test_clstk" / "fcaw" / f"{audio_path.stem}.raw"
        samples, sample_rate_hz = soundfile.read(audio_path, dtype="int16")
        assert sample_rate_hz == 16_000
        assert samples.astype("<i2").tobytes() == raw.read_bytes()
    else:
        assert audio_path.is_relative_to(official_corpus)


def test_dev_speakers_depend_on_the_seed_alone(tsv_corpus):
    train = an4.read_split(tsv_corpus, "train", tsv_corpus)
    choices = {seed: {r.speaker for r in an4.hold_out_speakers(train, 1, seed=seed)[1]} for seed in range(20)}
    again = {r.speaker for r in an4.hold_out_speakers(train[::-1], 1, seed=3)[1]}
    assert again == choices[3]
    assert set().union(*choices.values()) == {"fash", "mblb", "mxyz"}
    for too_many in (0, 4):
        with pytest.raises(ValueError, match=f"--dev-speakers is {too_many}, but 3 of the 4"):
            an4.hold_out_speakers(train, too_many, seed=0)


def test_a_subset_is_warned_of(tsv_corpus, tmp_path, capsys):
    an4.main(tsv_corpus, tmp_path / "out", dev_speakers=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "train has 18 utterances, the official release 948" in said
    assert "test has 3 utterances, the official release 130" in said
    assert "the test set has 9 words, the official one 773" in said


def test_damage_is_named(official_corpus, tmp_path):
    transcription = official_corpus / "etc" / "an4_train.transcription"
    whole = transcription.read_text()
    transcription.write_text("no id here\n" + whole)
    with pytest.raises(ValueError, match="an4_train.transcription:1: 'no id here'"):
        an4.read_split(official_corpus, "train", tmp_path)
    transcription.write_text("\n".join(whole.splitlines()[1:]))
    with pytest.raises(ValueError, match="an4_train.fileids:1: no transcript for"):
        an4.read_split(official_corpus, "train", tmp_path)
    next((official_corpus / "wav" / "an4test_clstk").rglob("an1-*")).unlink()
    with pytest.raises(ValueError, match="an4_test.fileids:2: neither"):
        an4.read_split(official_corpus, "test", tmp_path)


def test_half_a_sample_is_named(tmp_path):
    (tmp_path / "x.raw").write_bytes(b"abc")
    with pytest.raises(ValueError, match="list:1: .*x.raw has 3 bytes"):
        an4._readable_audio(tmp_path / "x", tmp_path / "out", "list:1")


def test_runs_as_a_script_from_anywhere(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "data_prep" / "an4.py"), "nowhere", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: neither train.tsv nor")
    assert "Traceback" not in done.stderr


def test_the_real_corpus(tmp_path, capsys):
    data = Path(os.environ.get("SEQDSD_DATA", REPOSITORY.parent / "shared" / "data")) / "an4"
    if not data.is_dir():
        pytest.skip("AN4 is not here: set SEQDSD_DATA to the folder that holds an4/")
    an4.main(data, tmp_path)
    train, dev, test = (
        read_manifest(tmp_path / f"{name}.jsonl").utterances for name in ("train", "dev", "test")
    )
    assert len(train) + len(dev) == 948 and len(test) == 130
    assert sum(len(u.text.split()) for u in test) == 773
    speakers = [{u.speaker for u in split} for split in (train, dev, test)]
    assert [len(of_split) for of_split in speakers] == [66, 8, 10]
    assert len(set.union(*speakers)) == 84
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_audio_that_cannot_be_written_is_named(tmp_path, make_audio):
    """Of a full disk or a quota, which libsndfile would report without its file or its cause."""
    import resource

    corpus = tmp_path / "an4"
    (corpus / "etc").mkdir(parents=True)
    make_audio(corpus / "wav" / "an4_clstk" / "fash" / "an1-fash-b.raw")
    (corpus / "etc" / "an4_train.fileids").write_text("an4_clstk/fash/an1-fash-b\n")
    (corpus / "etc" / "an4_train.transcription").write_text("<s> GO </s> (an1-fash-b)\n")
    done = subprocess.run(
        [sys.executable, "data_prep/an4.py", corpus, tmp_path / "out"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
        capture_output=True,
        text=True,
    )
    flac = tmp_path / "out" / "audio" / "train" / "fash" / "an1-fash-b.flac"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {flac}: cannot be written (File too large)")
    assert list(flac.parent.iterdir()) == []
