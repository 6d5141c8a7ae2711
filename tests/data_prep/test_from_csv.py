from pathlib import Path

import from_csv
import pytest

from seqdsd.data.manifest import read_manifest


@pytest.fixture
def deepspeech(tmp_path, make_audio):
    """A corpus in DeepSpeech's form: wav paths relative to the table."""
    folder = tmp_path / "ds"
    for name in ("train", "dev", "test"):
        make_audio(folder / name / "one.wav")
        make_audio(folder / "two.wav")
        (folder / f"{name}.csv").write_text(
            f'wav_filename,wav_filesize,transcript\n{name}/one.wav,3244,"Yes, sir"\ntwo.wav,3244,no\n'
        )
    return folder


@pytest.fixture
def common_voice(tmp_path, make_audio):
    """A corpus in Common Voice's form: MP3 in clips/, speakers by hash, quotes as they are."""
    folder = tmp_path / "cy"
    for name in ("train", "dev", "test"):
        rows = ["client_id\tpath\tsentence\tup_votes"]
        for number in range(2):
            clip = make_audio(folder / "clips" / f"common_voice_cy_{name}{number}.mp3", 0.5)
            rows.append(f'{name}-speaker\t{clip.name}\t"Bore da", it’s {name}.\t2')
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def read(out, split="train"):
    return read_manifest(out / f"{split}.jsonl").utterances


def test_deepspeech_csv(deepspeech, tmp_path):
    from_csv.main(deepspeech, tmp_path / "out")
    assert [(u.id, u.text, u.speaker) for u in read(tmp_path / "out")] == [
        ("train-one", "yes sir", None),
        ("two", "no", None),
    ]
    assert len(read(tmp_path / "out", "dev")) == len(read(tmp_path / "out", "test")) == 2


def test_common_voice_tsv(common_voice, tmp_path):
    from_csv.main(common_voice, tmp_path / "out")
    first, second = read(tmp_path / "out", "test")
    assert (first.id, first.text, first.speaker) == (
        "common_voice_cy_test0",
        "bore da it's test",
        "test-speaker",
    )
    assert first.audio_path == str(common_voice / "clips" / "common_voice_cy_test0.mp3")
    assert first.duration_seconds == pytest.approx(0.5, abs=0.1)  # MP3 pads to whole frames


def test_clips_without_extension(common_voice, tmp_path):
    table = common_voice / "train.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace(".mp3", ""), encoding="utf-8")
    from_csv.main(common_voice, tmp_path / "out")
    assert Path(read(tmp_path / "out")[0].audio_path).suffix == ".mp3"


def test_chosen_tables(deepspeech, tmp_path):
    from_csv.main(
        deepspeech, tmp_path / "out", train=(Path("dev.csv"),), test=(Path("test.csv"), Path("train.csv"))
    )
    assert read(tmp_path / "out")[0].id == "dev-one"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev.jsonl",
        "test.jsonl",
        "test_train.jsonl",
        "train.jsonl",
    ]


def test_missing_columns_are_named_with_those_found(deepspeech, tmp_path):
    (deepspeech / "dev.csv").write_text("filename,transcript\na.wav,yes\n")
    with pytest.raises(
        ValueError, match="dev.csv:1: the columns are filename, transcript. Needed are wav_filename"
    ):
        from_csv.main(deepspeech, tmp_path / "out")
    (deepspeech / "dev.csv").write_text("")
    with pytest.raises(ValueError, match="dev.csv:1: the columns are none"):
        from_csv.main(deepspeech, tmp_path / "out")


def test_damage_is_named(deepspeech, tmp_path):
    table = deepspeech / "train.csv"
    table.write_text("wav_filename,wav_filesize,transcript\ntrain/one.wav,3244\n")
    with pytest.raises(ValueError, match="train.csv:2: too few columns"):
        from_csv.main(deepspeech, tmp_path / "out")
    table.write_bytes(b"wav_filename,wav_filesize,transcript\ntrain/one.wav,3244,ol\xe9\n")
    with pytest.raises(ValueError, match="train.csv: cannot be read"):
        from_csv.main(deepspeech, tmp_path / "out")
    table.unlink()
    with pytest.raises(ValueError, match="gone.csv: cannot be read"):
        from_csv.main(deepspeech, tmp_path / "out", train=(Path("gone.csv"),))
    with pytest.raises(ValueError, match="no train, dev or test table"):
        from_csv.main(tmp_path, tmp_path / "out")


def test_bad_rows_can_be_skipped(deepspeech, tmp_path, capsys):
    with open(deepspeech / "train.csv", "a") as file:
        file.write("gone.wav,1,yes\n")
    with pytest.raises(ValueError, match="train.csv:4: .*gone.wav: there is no such file"):
        from_csv.main(deepspeech, tmp_path / "out")
    from_csv.main(deepspeech, tmp_path / "out", on_bad_data="skip")
    assert len(read(tmp_path / "out")) == 2
    assert "train: left out 1 recordings" in capsys.readouterr().err


def test_shared_speakers_are_warned_of(common_voice, tmp_path, capsys):
    from_csv.main(common_voice, tmp_path / "out", dev=(Path("train.tsv"),))
    assert "such as 'train-speaker' in train and dev" in " ".join(capsys.readouterr().err.split())


def test_other_alphabets(common_voice, tmp_path):
    from_csv.main(common_voice, tmp_path / "out", alphabet=' "abcdefghijklmnopqrstuvwxyz')
    assert read(tmp_path / "out")[0].text == '"bore da" its train'
