"""Runs with nothing but --data, by the real command: what they begin from, how they go on, and awkward corpora."""

import re
import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from seqdsd.config import differences, read_config
from seqdsd.recipes import ds1, ds2
from seqdsd.recipes.catalog import RECIPES
from seqdsd.recipes.command import parse_command
from seqdsd.recipes.fitting import Planned
from seqdsd.records import RunFolder

SHORT = (
    "--epochs",
    "1",
    "--iters",
    "0",
    "--device",
    "cpu",
    "--batches.num-workers",
    "0",
    "--hidden-size",
    "16",
)


def parse(*argv, recipe=ds1.RECIPE):
    return parse_command(
        recipe.config_class,
        prog="",
        description="",
        without_data=recipe.embedded_settings,
        with_data=recipe.fit,
        recipe=recipe.name,
        argv=[str(one) for one in argv],
    )


def main(capsys, *argv, recipe=ds1.RECIPE):
    """The command in this process: (exit status, stdout, stderr), each text without line ends."""
    status = 0
    try:
        recipe.main([str(one) for one in argv])
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    return status, " ".join(said.out.split()), " ".join(said.err.split())


# What settings begin from.


def test_data_alone_begins_from_the_fitted_settings_and_flags_override(tone_corpus):
    fitted = ds1.RECIPE.fit(tone_corpus.folder).settings
    assert parse("--data", tone_corpus.folder).settings == replace(fitted, data=tone_corpus.folder)
    flags = ("--hidden-size", "77", "--network.dropout", "0.4")
    command = parse("--data", tone_corpus.folder, *flags)
    changed = differences(fitted, command.settings)
    assert [line.split(":")[0] for line in changed] == ["hidden_size", "network.dropout", "data"]
    assert not [line for line in command.fitted.lines(command.settings) if line.startswith("dropout")]


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        (["--iters", "0", "--epochs", "3000"], 3000),
        (["--iters=0", "--epochs=2999"], 2999),
        (["--iters", "1", "--epochs=1", "2000", "999"], 3000),  # tyro takes all three
        (["--epochs", "3000", "1", "--epochs", "1"], 5),  # the last counts
        (["--epochs", "1_000"], 5000),
    ],
)
def test_the_planned_length_is_what_the_flags_come_to_however_they_are_written(tone_corpus, flags, epochs):
    settings = parse("--data", tone_corpus.folder, *flags).settings
    assert settings.schedule.total_epochs == epochs
    assert settings.augment.spec_augment == (2 * epochs >= 6_000)  # two steps an epoch


@pytest.mark.parametrize(
    ("flags", "said"), [(["--iters"], "--iters"), (["--iters", str(10**12)], "iters must be at most 1000")]
)
def test_a_planned_length_that_cannot_be_is_refused_as_any_flag_is(tone_corpus, capsys, flags, said):
    status, _, err = main(capsys, "--data", tone_corpus.folder, *flags)
    assert status and said in err and "usage" not in err


@pytest.mark.parametrize(
    "flag", ["--data", "--optimizer.kind", "--preset", "--batches.max-batch-seconds", "--features.highest-hz"]
)
def test_a_flag_without_its_value_is_refused_as_any_is(capsys, flag):
    status, _, err = main(capsys, "--preset", "paper", flag)
    assert status and f"argument '{flag}'" in err and "usage" not in err


def test_help_needs_no_corpus(capsys, tmp_path):
    for data in ("/nowhere", tmp_path):
        status, out, _ = main(capsys, "--data", data, "--help")
        assert status == 0 and "--hidden-size" in out


def test_flags_that_other_choices_depend_on_are_known_to_the_rule(tone_corpus):
    planned = []

    def fit(folder, on_bad_data, wanted):
        planned.append(wanted)
        return ds1.RECIPE.fit(folder, on_bad_data, wanted)

    parse_command(
        ds1.Config,
        prog="",
        description="",
        without_data=ds1.RECIPE.embedded_settings,
        with_data=fit,
        argv=["--data", str(tone_corpus.folder), "--batches.max-batch-seconds", "30", "--epochs", "7"],
    )
    assert planned == [Planned(epochs=(7,), batch_seconds=30.0)]
    plain = parse("--data", tone_corpus.folder, "--optimizer.kind", "nesterov", "--preset", "auto")
    assert plain.settings.learning_rates == ds1.Config().learning_rates
    assert "optimizer" not in plain.fitted.provenance(plain.settings)["chosen_automatically"]
    narrow = parse("--data", tone_corpus.folder, "--features.highest-hz", "3000").settings.features
    assert (narrow.num_mels, narrow.highest_hz) == (55, 3000.0)
    linear = ("--features.kind", "linear", "--features.highest_hz", "3000")
    assert parse("--data", tone_corpus.folder, *linear).settings.features.num_mels == 80


@pytest.mark.parametrize("recipe", [ds1.RECIPE, ds2.RECIPE])
def test_the_paper_s_preset_is_the_class_s_defaults(tone_corpus, recipe):
    command = parse("--preset", "paper", "--data", tone_corpus.folder, recipe=recipe)
    assert command.settings == replace(recipe.config_class(), data=tone_corpus.folder)
    assert command.fitted is None
    assert parse("--preset=paper", recipe=recipe).settings == recipe.config_class()


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_file_lies_on_the_paper_s_settings_whatever_the_preset(tone_corpus, tmp_path, preset):
    file = tmp_path / "ds1.toml"
    file.write_text(f'data = "{tone_corpus.folder}"\nhidden_size = 40\n')
    command = parse("--config", file, "--preset", preset)
    assert command.settings == ds1.Config(data=tone_corpus.folder, hidden_size=40) and command.fitted is None


def test_studies_begin_from_the_fitted_settings(tone_corpus):
    arguments = ["--data", str(tone_corpus.folder), "--hidden-size", "20"]
    found, chosen = RECIPES["ds1"].settings(None, arguments, prog="seqdsd compare", reserved=())
    assert found == replace(
        ds1.RECIPE.fit(tone_corpus.folder).settings, data=tone_corpus.folder, hidden_size=20
    )
    assert "epochs" in chosen["chosen_automatically"] and chosen["corpus"]["utterances"] == 24


# A run and its going on.


def test_a_run_says_and_notes_what_was_chosen(tone_corpus, tmp_path, capsys):
    status, out, _ = main(capsys, "--data", tone_corpus.folder, "--out", tmp_path / "run", *SHORT)
    assert status == 0 and "Chosen for this corpus" in out and "24 utterances" in out
    batches = "batches of 8 s, long and short ones mixed from the first epoch on"
    assert f"{batches}: 17 s of audio give about 2 steps an epoch" in out and "units a layer" not in out
    path = tmp_path / "run" / "config.toml"
    noted = tomllib.loads(path.read_text())["provenance"]
    assert noted["corpus"]["utterances"] == 24 and noted["corpus"]["sample_rates_hz"] == [16_000]
    assert "learning_rates" in noted["chosen_automatically"] and "epochs" not in noted["chosen_automatically"]
    assert read_config(path, ds1.Config()).network == ds1.RECIPE.fit(tone_corpus.folder).settings.network


def test_a_dry_run_says_what_would_be_chosen(tone_corpus, tmp_path, capsys):
    status, out, _ = main(
        capsys, "--data", tone_corpus.folder, "--out", tmp_path / "run", "--dry-run", recipe=ds2.RECIPE
    )
    assert status == 0 and "2 recurrent layers: for less than 10 h of audio" in out and "Schedule" in out
    assert not (tmp_path / "run").exists()


def test_a_run_is_gone_on_with_by_its_own_settings(tone_corpus, tmp_path, capsys):
    """Although the corpus has been mended since, by which other settings would be chosen; and from another place."""
    data, out = tone_corpus.folder, tmp_path / "run"
    assert main(capsys, "--data", data, "--out", out, *SHORT)[0] == 0
    (out / "phases.jsonl").unlink()  # else it would be complete, and say so
    entries = tone_corpus.read_manifest("train")
    tone_corpus.write_manifest(
        "train", [{**entry, "text": entry["text"].replace("bad", "bäd")} for entry in entries]
    )
    assert ds1.RECIPE.fit(data).settings.tokenizer != ds1.Config().tokenizer
    settings = parse("--data", data, "--out", out, "--resume").settings
    assert settings == read_config(out / "config.toml", ds1.Config())
    tone_corpus.write_manifest("train", entries)
    shutil.move(out, tmp_path / "moved")
    status, said, _ = main(capsys, "--out", tmp_path / "moved", "--resume")
    assert status == 0 and "Chosen" not in said
    assert len(RunFolder(tmp_path / "moved").read_phases()) == 1


def test_other_flags_are_refused_in_words(tone_corpus, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(capsys, "--data", tone_corpus.folder, "--out", out, *SHORT)[0] == 0
    status, _, err = main(capsys, "--out", out, "--resume", "--hidden-size", "17")
    assert (
        status == 1 and "other settings (hidden_size: 16 -> 17); resume with its own (--resume without" in err
    )
    status, _, err = main(capsys, "--out", out, "--resume", "--preset", "paper", "--data", tone_corpus.folder)
    assert status == 1 and "other settings" in err
    status, _, err = main(capsys, "--out", out, "--resume", recipe=ds2.RECIPE)
    assert status == 1 and "a run of 'ds1', with which 'ds2' cannot go on; take another --out" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("invented = 1\n[provenance]\nformat = 2", "is from another version of seqdsd (format 2"),
        ("hidden_size = 16\nprovenance = 3", r"[provenance]: expected `object`"),
        ("hidden_size = ", "not a readable TOML file"),
    ],
)
def test_a_run_of_another_version_or_with_damaged_settings_is_refused_by_name(tmp_path, text, said):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'config.toml'}: ") + ".*" + re.escape(said)):
        parse("--out", tmp_path, "--resume")


def test_where_there_is_no_run_resuming_begins_one(tone_corpus, tmp_path, write):
    command = parse("--data", tone_corpus.folder, "--out", tmp_path / "run", "--resume")
    assert command.fitted and command.settings.data == tone_corpus.folder


# Awkward corpora: each trains, or is told why not and what to do.


@pytest.fixture
def write(empty_tone_corpus):
    """Writes a corpus of these texts."""

    def write(folder, train, dev=None, test=None):
        corpus = empty_tone_corpus(folder)
        splits = {"train": train, "dev": dev or train[:3], "test": test or train[:3]}
        for seed, (split, texts) in enumerate(splits.items()):
            corpus.write(split, texts, seed=seed)
        return corpus

    return write


def rewrite(corpus, split, change):
    """Other samples for every recording of a split: ``change(samples, index)``."""
    entries = corpus.read_manifest(split)
    for index, entry in enumerate(entries):
        path = corpus.folder / entry["audio_filepath"]
        samples = change(soundfile.read(path)[0], index)
        soundfile.write(path, samples, 16_000, subtype="PCM_16")
        entry["duration"] = len(samples) / 16_000
    corpus.write_manifest(split, entries)


@pytest.fixture(params=["ds1", "ds2"])
def train(request, capsys, tmp_path):
    """Trains a network for an epoch on a corpus, by its automatic settings otherwise."""
    recipe = {"ds1": ds1.RECIPE, "ds2": ds2.RECIPE}[request.param]
    return lambda corpus, *flags: main(
        capsys, "--data", corpus.folder, "--out", tmp_path / "run", *SHORT, *flags, recipe=recipe
    )


def test_twenty_utterances_of_one_speaker(train, tmp_path, write, random_texts):
    corpus = write(tmp_path / "few", random_texts(20, seed=3))
    corpus.write_manifest("train", [{**one, "speaker": "anna"} for one in corpus.read_manifest("train")])
    status, out, _ = train(corpus)
    assert status == 0 and "20 utterances" in out and "1 speaker," in out and "extrapolated" in out
    assert "note: one speaker in training: a dev set of the same voice says nothing of others" in out


def test_all_utterances_of_one_word(train, tmp_path, write):
    assert train(write(tmp_path / "one", ["bad"] * 20))[0] == 0


def test_nearly_all_of_it_silence(train, tmp_path, write):
    corpus = write(tmp_path / "silent", ["bad cab", "fed age"] * 6)
    rewrite(corpus, "train", lambda samples, _: np.concatenate([samples, np.zeros(19 * len(samples))]))
    status, out, _ = train(corpus)
    assert status == 0 and "characters a second are few (AN4 has 7): cut long silences off" in out


def test_a_dev_set_of_silence(train, tmp_path, write, random_texts):
    corpus = write(tmp_path / "dev", random_texts(12, seed=4))
    rewrite(corpus, "dev", lambda samples, _: 0 * samples)
    assert train(corpus)[0] == 0


def test_a_dev_set_without_words_is_refused_by_line(train, tmp_path, write, random_texts):
    corpus = write(tmp_path / "dev", random_texts(12, seed=4))
    corpus.write_manifest("dev", [{**one, "text": ""} for one in corpus.read_manifest("dev")])
    status, _, err = train(corpus)
    assert status == 1 and "dev.jsonl:1: 'text' is ''. Give the transcript, or remove the line" in err


def test_clips_of_a_tenth_of_a_second_and_of_a_minute(train, tmp_path, write):
    corpus = write(tmp_path / "mixed", ["a", "b"] * 8 + ["bad cab"] * 2, dev=["a", "bad"], test=["fed age"])
    rewrite(
        corpus, "train", lambda samples, index: samples[:1600] if index < 16 else np.resize(samples, 960_000)
    )
    rewrite(
        corpus, "dev", lambda samples, index: np.resize(samples, 80_000 * (1 + 20 * index))
    )  # 5 s and 105 s
    status, out, _ = train(corpus)
    assert status == 0 and "batches of 21 s" in out and "longer utterances are alone in theirs" in out


@pytest.mark.parametrize("letters", ["αβγδεζηθ", "абвгдежз", "äöüßéèñç"])
def test_other_letters_train_as_they_are_and_as_sub_words(train, tmp_path, letters, write, random_texts):
    to_others = str.maketrans("abcdefgh", letters)
    corpus = write(tmp_path / "letters", random_texts(24, seed=5))
    for split in ("train", "dev", "test"):
        entries = corpus.read_manifest(split)
        corpus.write_manifest(split, [{**one, "text": one["text"].translate(to_others)} for one in entries])
    status, out, _ = train(corpus)
    assert status == 0 and "transcripts have" in out
    shutil.rmtree(tmp_path / "run")
    assert train(corpus, "--tokenizer.kind", "subwords", "--tokenizer.vocab-size", "16")[0] == 0
    shutil.rmtree(tmp_path / "run")
    status, _, err = train(corpus, "--preset", "paper")
    assert status == 1 and "train.jsonl:1" in err and "--tokenizer.alphabet" in err


def test_a_digit_among_other_letters_is_the_only_thing_refused(train, tmp_path, write, random_texts):
    to_others = str.maketrans("abcdefgh", "абвгдежз")
    corpus = write(tmp_path / "letters", random_texts(24, seed=5))
    for split in ("train", "dev", "test"):
        entries = [{**one, "text": one["text"].translate(to_others)} for one in corpus.read_manifest(split)]
        if split == "train":
            entries[3]["text"] = "баг 2"
        corpus.write_manifest(split, entries)
    status, _, err = train(corpus)
    assert status == 1 and "train.jsonl:4: utterance train03: 'баг 2' has '2' (first at position 4)" in err
    status, out, _ = train(corpus, "--on-bad-data", "skip")
    assert status == 0 and "transcripts have" in out


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_letter_that_training_does_not_have_is_refused_until_it_is_added(
    train, tmp_path, write, random_texts, split
):
    corpus = write(tmp_path / "letters", random_texts(12, seed=6))
    entries = corpus.read_manifest(split)
    corpus.write_manifest(split, [*entries[:2], {**entries[2], "text": "bäd"}])
    status, _, err = train(corpus)
    assert status == 1 and f"{split}.jsonl:3: utterance {split}02: 'bäd' has 'ä'" in err
    assert "add them to the alphabet (--tokenizer.alphabet)" in err and not (tmp_path / "run").exists()
    assert train(corpus, "--tokenizer.alphabet", " 'abcdefghijklmnopqrstuvwxyzä")[0] == 0


def test_upper_case_and_digits_are_refused_with_what_to_do(train, tmp_path, empty_tone_corpus):
    for texts, remedy in (
        (["BAD CAB"] * 4, "Lower-case them"),
        (["bad 5"] * 4, "write digits and signs out as words"),
    ):
        corpus = empty_tone_corpus(tmp_path / texts[0][:3])
        for split in ("train", "dev", "test"):
            corpus.write(split, ["bad cab"] * 4)
            entries = corpus.read_manifest(split)
            corpus.write_manifest(
                split, [{**one, "text": text} for one, text in zip(entries, texts, strict=True)]
            )
        status, _, err = train(corpus)
        assert status == 1 and "train.jsonl:1" in err and remedy in err
