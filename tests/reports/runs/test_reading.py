"""Reading run folders: found in a stated order, named, and refused by name where damaged while the rest is read."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seqdsd.kinds import CAPTIONS, SPEECH
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.runs.hypotheses import Hypothesis
from seqdsd.reports.runs.reading import RunSet, read_hypotheses, read_images, read_recordings, read_runs

RECIPES = Path(__file__).parents[3] / "recipes"


def names(found: RunSet) -> list[str]:
    return [run.name for run in found.runs]


# What is found


def test_the_committed_records_are_read():
    found = read_runs([RECIPES])
    assert not found.refused
    by_name = {run.name: run for run in found.runs}
    speech = by_name["ds1-dsd-seed0"]
    assert (speech.recipe, speech.method, speech.iters, speech.seed) == ("ds1", "dsd", 2, 0)
    assert (speech.arm, speech.kind, speech.test_splits, speech.is_complete) == (
        "DSDSD",
        SPEECH,
        ("test",),
        True,
    )
    assert (speech.settings["hidden_size"], speech.provenance["git_commit"]) == (320, "789f74b51f27")
    assert "provenance" not in speech.settings
    captions = by_name["neuraltalk-dsd-seed0"]
    assert (captions.arm, captions.kind, len(captions.phases)) == ("DSD", CAPTIONS, 3)
    rows = read_hypotheses(captions, "Dense Iter 0", "test")
    assert (len(rows), rows[0].refs) == (1000, ())  # the corpus' captions may not be copied here
    assert rows[0].hyp == "two dogs are playing in the snow"


def test_a_comparison_is_found_in_order(make_comparison):
    folder = make_comparison(seeds=[10, 2], arms=["dense", "dsd", "baseline"])
    assert names(read_runs([folder])) == [
        *("seed-2/baseline", "seed-2/dense", "seed-2/dsd"),
        *("seed-10/baseline", "seed-10/dense", "seed-10/dsd"),
    ]
    assert [run.arm for run in read_runs([folder]).runs[:3]] == ["Baseline", "Dense", "DSD"]
    assert len(read_runs([folder.parent]).runs) == 6  # three folders below


def test_a_folder_counts_once_where_it_first_stands(make_comparison):
    folder = make_comparison(seeds=[0, 1], arms=["dsd"])
    again = folder.parent / "link"
    again.symlink_to(folder / "seed-1")
    found = read_runs([folder / "seed-1" / "dsd", folder, again / "dsd"])
    assert [run.folder.path for run in found.runs] == [folder / "seed-1/dsd", folder / "seed-0/dsd"]


def test_names_are_as_long_as_it_takes(make_arm):
    one, other = make_arm("a/dsd", "dsd"), make_arm("b/dsd", "dsd")
    assert names(read_runs([one.path])) == ["dsd"]
    assert names(read_runs([one.path, other.path])) == ["a/dsd", "b/dsd"]


def test_the_current_folder_has_a_name(make_arm, monkeypatch):
    monkeypatch.chdir(make_arm("mine", "dsd").path)
    assert names(read_runs([Path(".")])) == ["mine"]


def test_hidden_folders_and_too_deep_ones_are_passed_over(make_arm, tmp_path):
    make_arm("x/seen", "dsd")
    make_arm("x/.trash/hidden", "dsd")
    make_arm("x/1/2/3/deep", "dsd")
    assert names(read_runs([tmp_path / "x"])) == ["seen"]


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("nowhere", "no such folder"),
        ("empty", "no run in it, up to 3 folders below"),
        ("file", "not a folder"),
    ],
)
def test_a_path_to_nothing_is_an_error(tmp_path, make_arm, place, problem):
    run = make_arm("run", "dsd")
    (tmp_path / "empty/a/b").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{place}: {problem}.*name a run folder"):
        read_runs([run.path, tmp_path / place])


def test_arms_and_planned_phases(comparison):
    found = {run.folder.path.name: run for run in read_runs([comparison / "seed-0"]).runs}
    arms = {name: (run.arm, run.num_planned) for name, run in found.items()}
    assert arms == {
        "baseline": ("Baseline", 1),
        "dense": ("Dense", 1),
        "dsd": ("DSD", 3),
        "dsdsd": ("DSDSD", 5),
        "llr": ("LLR", 5),
    }
    assert all(run.is_complete for run in found.values())
    assert (len(found["dsdsd"].weights), len(found["dsdsd"].plan), found["llr"].weights) == (10, 3, ())
    assert replace(found["dsdsd"], iters=3).arm == "DSDSD"


def test_an_unfinished_run_is_read_and_said_to_be(make_arm):
    folder = make_arm("run", "dsdsd")
    folder.write_phases(folder.read_phases()[:4])
    (run,) = read_runs([folder.path]).runs
    assert (run.is_complete, len(run.phases), run.num_planned) == (False, 4, 5)


def test_several_test_sets(make_arm):
    folder = make_arm("run", "dsd")
    records = folder.read_phases()
    for record in records:
        record["test_wsj93"] = record["test"]
    folder.write_phases(records)
    assert read_runs([folder.path]).runs[0].test_splits == ("test", "test_wsj93")


def test_where_recordings_and_images_lie(make_arm, tmp_path):
    folder = make_arm("run", "dsd")
    (run,) = read_runs([folder.path]).runs
    assert read_recordings(run) == read_images(run).paths == {}
    absolute = tmp_path / "b.wav"
    write_json_lines(folder.audio, [{"id": "a", "path": "sound/a.wav"}, {"id": "b", "path": str(absolute)}])
    assert read_recordings(run) == {"a": folder.path / "sound/a.wav", "b": absolute}


def test_hypotheses_by_phase_and_split(make_arm):
    folder = make_arm("run", "dsd")
    (run,) = read_runs([folder.path]).runs
    write_json_lines(folder.hypotheses("Dense Iter 1", "test"), [{"id": "x", "ref": "go on", "hyp": ""}])
    assert read_hypotheses(run, "Dense Iter 1", "test") == (Hypothesis("x", ("go on",), ""),)
    with pytest.raises(ValueError, match=r"dense-iter-1\.train\.jsonl: missing, so the hypotheses of phase"):
        read_hypotheses(run, "Dense Iter 1", "train")


# What is refused


@pytest.fixture
def refusal(comparison, tmp_path):
    """Damages one of three runs; the others must be read, and what is said of the damaged one is returned."""
    for name in ("a", "damaged", "z"):
        shutil.copytree(comparison / "seed-0" / "dsd", tmp_path / "runs" / name)

    def refused(damage) -> str:
        run = RunFolder(tmp_path / "runs" / "damaged")
        damage(run)
        found = read_runs([tmp_path / "runs"])
        assert names(found) == ["a", "z"]
        (one,) = found.refused
        assert one.path == run.path
        assert one.message.startswith(str(run.path)) and "\n" not in one.message
        return one.message

    return refused


def test_without_a_finished_phase(refusal):
    said = refusal(lambda run: run.phases.unlink())
    assert "no finished phase" in said and "--resume" in said


def test_phases_that_are_empty(refusal):
    assert "no finished phase" in refusal(lambda run: run.phases.write_text(""))


def test_without_its_settings(refusal):
    assert "config.toml: missing" in refusal(lambda run: run.config.unlink())


@pytest.mark.parametrize("content", [b"seed = = 7", b"\xff\xfe", b'seed = "'])
def test_settings_that_are_no_toml(refusal, content):
    said = refusal(lambda run: run.config.write_bytes(content))
    assert "config.toml: not a readable TOML file" in said and "bring it back" in said


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('method = "dsd"', 'method = "magic"', "method: invalid enum value 'magic'"),
        ('method = "dsd"', "", "object missing required field `method`"),
        ("iters = 1", "iters = true", "iters: expected `int`, got `bool`"),
        ("iters = 1", "iters = -1", "iters: expected `int` >= 0"),
        ("seed = 0\nlearning", "learning", "object missing required field `seed`"),
        ('recipe = "ds1"', "", 'no recipe = "…" in a table [provenance]'),
        ("[provenance]", "[origin]", 'no recipe = "…" in a table [provenance]'),
        ("[provenance]", "provenance = 3\n[origin]", "not a readable TOML file|no recipe"),
    ],
)
def test_settings_that_lack_what_everything_needs(refusal, old, new, problem):
    def damage(run: RunFolder) -> None:
        text = run.config.read_text()
        assert old in text
        run.config.write_text(text.replace(old, new))

    said = refusal(damage)
    assert any(part in said for part in problem.split("|")), said


def test_another_version_is_named(refusal):
    def damage(run: RunFolder) -> None:
        run.config.write_text(run.config.read_text().replace("format = 1", "format = 2"))

    said = refusal(damage)
    assert "from another version of seqdsd (format 2, this one reads 1)" in said
    assert "report it with the version that wrote it" in said


def test_folders_from_before_the_format_was_written_are_read(make_arm):
    folder = make_arm("run", "dsd")
    folder.config.write_text(folder.config.read_text().replace("format = 1\n", ""))
    assert len(read_runs([folder.path]).runs) == 1


def changed(**changes):
    """Damages the second phase's record."""

    def damage(run: RunFolder) -> None:
        records = run.read_phases()
        records[1] = {key: value for key, value in {**records[1], **changes}.items() if value is not ...}
        run.phases.write_text("".join(json.dumps(record) + "\n" for record in records))

    return damage


WER_ALONE = {"wer": 0.1}
GIVEN = {"file": "theirs.pt", "sha256": "ab12", "dev_loss": 1.5, "dev_score": 0.2}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ...}, "object missing required field `name`"),
        ({"name": " "}, "name: expected `str` matching regex"),
        ({"name": "Dense Iter 0"}, "phase 'Dense Iter 0' a second time"),
        ({"index": 2}, "'index' must be 1, got 2"),
        ({"kind": "sparsely"}, "kind: invalid enum value 'sparsely'"),
        ({"epochs": -1}, "epochs: expected `int` >= 0"),
        ({"epochs": 0}, "'epochs' is 0, but its weights were not given"),
        ({"given": GIVEN}, "of given weights, but 'epochs' is 2"),
        ({"given": {**GIVEN, "sha256": "a\nb"}}, "given.sha256: expected `str` matching regex"),
        ({"best_epoch": 0}, "'best_epoch' is 0, but there were 2 epochs"),
        ({"epochs": 2.5}, "epochs: expected `int`, got `float`"),
        ({"epochs": True}, "epochs: expected `int`, got `bool`"),
        ({"epochs": 3}, "'train_loss' has 2 values for 3 epochs"),
        ({"best_epoch": 3}, "'best_epoch' is 3, but there were 2 epochs"),
        ({"learning_rate": 0}, "learning_rate: expected `float` > 0.0"),
        ({"learning_rate": float("nan")}, "damaged record"),
        ({"sparsity": 50}, "sparsity: expected `float` <= 1.0"),
        ({"measured_sparsity": None}, "measured_sparsity: expected `float`, got `null`"),
        ({"train_loss": {"1": 2.0}}, "train_loss: expected `array`, got `object`"),
        ({"dev_score": [0.1, "x"]}, "dev_score[1]: expected `float | null`, got `str`"),
        ({"dev_score": [0.1]}, "'dev_score' has 1 values for 2 epochs"),
        ({"train_seconds": -1}, "train_seconds: expected `float` >= 0.0"),
        ({"train_seconds": ...}, "object missing required field `train_seconds`"),
        ({"evaluate_seconds": "2"}, "evaluate_seconds: expected `float`, got `str`"),
        ({"taken_over_from": 5}, "taken_over_from: expected `str`, got `int`"),
        ({"statistics_seconds": None}, "statistics_seconds: expected `float`, got `null`"),
        ({"dev": None}, "dev: expected `object`, got `null`"),
        ({"dev": {"cer": 0.1}}, "dev: object missing required field `wer`"),
        ({"dev": {**WER_ALONE, "wer": -0.1}}, "dev: wer: expected `float` >= 0.0"),
        ({"test": []}, "test: expected `object`, got `array`"),
        ({"test": WER_ALONE}, "test: object missing required field `substitutions`"),
        ({"test": {"bleu4": 12.0}}, "test: object missing required field `wer`"),
    ],
)
def test_phases_that_no_run_writes(refusal, changes, problem):
    said = refusal(changed(**changes))
    assert f"phases.jsonl:2: {problem}" in said, said
    assert "bring the file back, or train again" in said


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("speech", "utterances", 7),
        ("speech", "ref_words", 20),
        ("speech", "signature", "other"),
        ("captions", "images", 7),
    ],
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_phases_scored_on_different_sets(make_arm, kind, key, value, split):
    folder = make_arm("run", "dsd", kind=kind)
    records = folder.read_phases()
    before = records[2][split][key]
    records[2][split] = {**records[2][split], key: value}
    folder.write_phases(records)
    (refused,) = read_runs([folder.path]).refused
    assert f"phases.jsonl:3: {split!r} of phase 'Dense Iter 1' has {key!r} {value!r}" in refused.message
    assert f"that of 'Dense Iter 0' {repr(before)[:30]}" in refused.message
    del records[2][split][
        key
    ]  # as in records from before it was kept; a word error rate has always had its words
    folder.write_phases(records)
    assert bool(read_runs([folder.path]).refused) == (key == "ref_words")


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wer": 0.5}, "'wer' is 0.5, but 24 errors in 120 words make 0.2"),
        ({"substitutions": 36}, "'wer' is 0.2, but 36 errors in 120 words make 0.3"),
        ({"deletions": 12}, "'wer' is 0.2, but 36 errors in 120 words make 0.3"),
        ({"insertions": 12}, "'wer' is 0.2, but 36 errors in 120 words make 0.3"),
        ({"wer": 0.2000001}, "'wer' is 0.2000001, but 24 errors in 120 words make 0.2"),
    ],
)
def test_an_error_rate_that_its_counts_do_not_make(refusal, split, changes, problem):
    def damage(run: RunFolder) -> None:
        records = run.read_phases()
        assert (records[1][split]["wer"], records[1][split]["substitutions"]) == (0.2, 24)
        records[1][split].update(changes)
        run.write_phases(records)

    assert f"phases.jsonl:2: {split!r}: {problem}; bring the file back" in refusal(damage)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"top1_error": 0.5}, "'top1_error' is 0.5, but 20 errors in 42 images make"),
        ({"top1_errors": 21}, "but 21 errors in 42 images make 0.5"),
        ({"top5_errors": 42}, "but 42 errors in 42 images make 1.0"),
    ],
)
def test_a_classifiers_error_rate_that_its_counts_do_not_make(make_arm, changes, problem):
    folder = make_arm("run", "baseline", kind="classification")
    records = folder.read_phases()
    assert records[0]["test"]["top1_errors"] == 20
    records[0]["test"].update(changes)
    folder.write_phases(records)
    (refused,) = read_runs([folder.path]).refused
    assert "phases.jsonl:1: 'test': " in refused.message and problem in refused.message


def test_an_error_rate_of_no_words(refusal):
    def damage(run: RunFolder) -> None:
        run.write_phases({**one, "dev": {**one["dev"], "ref_words": 0}} for one in run.read_phases())

    assert "phases.jsonl:1: 'dev': 'ref_words' is 0" in refusal(damage)


def test_an_error_rate_may_be_rounded(make_arm):
    folder = make_arm("run", "dsd")
    records = folder.read_phases()
    records[1]["dev"]["wer"] += 9e-10
    folder.write_phases(records)
    assert len(read_runs([folder.path]).runs) == 1


def test_scores_of_captions_that_cannot_be(make_arm):
    folder = make_arm("run", "dsd", kind="captions")
    records = folder.read_phases()
    for score, problem in (
        (100.5, "expected `float` <= 100.000001"),
        ("12", "expected `float`, got `str`"),
    ):
        records[0]["test"]["bleu4"] = score
        folder.write_phases(records)
        (refused,) = read_runs([folder.path]).refused
        assert f"phases.jsonl:1: test: bleu4: {problem}" in refused.message
    records[0]["test"]["bleu4"] = 100.00000000000004  # as rounding gives it
    folder.write_phases(records)
    assert not read_runs([folder.path]).refused


def test_phases_that_are_garbled(refusal):
    def damage(run: RunFolder) -> None:
        run.phases.write_text(run.phases.read_text()[:-30])

    assert "phases.jsonl:3: damaged record" in refusal(damage)


def test_phases_that_are_no_text(refusal):
    assert "phases.jsonl:1: not UTF-8 text" in refusal(lambda run: run.phases.write_bytes(b"\xff\xfe"))


def test_phases_that_are_no_records(refusal):
    assert "phases.jsonl:1: expected `object`, got `array`" in refusal(
        lambda run: run.phases.write_text("[1]\n")
    )


def test_a_lost_line(refusal):
    def damage(run: RunFolder) -> None:
        run.phases.write_text("".join(run.phases.read_text().splitlines(keepends=True)[1:]))

    assert "phases.jsonl:1: 'index' must be 0, got 1: a line is missing or moved" in refusal(damage)


def test_more_phases_than_the_settings_make(refusal):
    def damage(run: RunFolder) -> None:
        run.config.write_text(run.config.read_text().replace("iters = 1", "iters = 0"))

    assert "phases.jsonl:2: the settings in config.toml make 1 phases, but 3 are recorded" in refusal(damage)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "u01", "hy', "damaged record"),
        ("3", "expected `object`, got `int`"),
        ('{"id": "u01", "ref": "go"}', "object missing required field `hyp`"),
        ('{"id": "u01", "ref": null, "hyp": "go"}', "ref: expected `str`, got `null`"),
        ('{"id": "u00", "ref": "go", "hyp": "go"}', "utterance 'u00' a second time"),
    ],
)
def test_garbled_hypotheses(refusal, line, problem):
    def damage(run: RunFolder) -> None:
        path = run.hypotheses("Sparse Iter 1", "dev")
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")

    said = refusal(damage)
    assert f"sparse-iter-1.dev.jsonl:2: {problem}" in said and "bring the file back or train again" in said


def test_empty_hypotheses(refusal):
    said = refusal(lambda run: run.hypotheses("Dense Iter 1", "test").write_text(""))
    assert "dense-iter-1.test.jsonl: empty" in said


@pytest.mark.parametrize(
    ("kind", "counted"), [("speech", "utterances"), ("captions", "images"), ("classification", "images")]
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_hypotheses_of_which_some_are_lost(make_arm, kind, counted, split):
    folder = make_arm("run", "dsd", kind=kind)
    path = folder.hypotheses("Sparse Iter 1", split)
    whole = path.read_text()
    for text, count in ((whole.partition("\n")[2], 41), (whole + '{"id": "more", "hyp": ""}\n', 43)):
        path.write_text(text)
        (refused,) = read_runs([folder.path]).refused
        assert refused.message == (
            f"{path}: {count} {counted}, but phases.jsonl says that phase 'Sparse Iter 1' was scored on 42; bring the "
            "file back or train again"
        )


@pytest.mark.parametrize(("kind", "counted"), [("speech", "utterances"), ("captions", "images")])
def test_hypotheses_of_records_that_do_not_count_them(make_arm, kind, counted):
    """As in folders from before the number was recorded."""
    folder = make_arm("run", "dsd", kind=kind)
    records = folder.read_phases()
    for record in records:
        del record["test"][counted]
    folder.write_phases(records)
    path = folder.hypotheses("Sparse Iter 1", "test")
    path.write_text(path.read_text().partition("\n")[2])
    assert len(read_runs([folder.path]).runs) == 1


def test_hypotheses_that_were_not_kept_are_no_damage(make_arm):
    folder = make_arm("run", "dsd")
    shutil.rmtree(folder.path / "hyps")
    assert len(read_runs([folder.path]).runs) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row.pop("moment"), "object missing required field `moment`"),
        (
            lambda row: row["layers"][1].update(histogram=[1, 2.5]),
            "layers[1].histogram: expected `array` of length >= 101",
        ),
        (
            lambda row: row["layers"][1].update(histogram=[1000]),
            "layers[1].histogram: expected `array` of length >= 101",
        ),
        (
            lambda row: row["layers"][1].update(weights=999),
            "layer 'rnn.weight': the histogram counts 1000 of 999 weights",
        ),
        (lambda row: row["layers"][0].pop("pruned"), "layers[0]: object missing required field `pruned`"),
        (lambda row: row["layers"][0].update(high="1"), "layers[0].high: expected `float`, got `str`"),
        (lambda row: row.update(layers=[3]), "layers[0]: expected `object`, got `int`"),
    ],
)
def test_weights_that_no_run_writes(refusal, change, problem):
    def damage(run: RunFolder) -> None:
        rows = [json.loads(line) for line in run.weight_statistics.read_text().splitlines()]
        change(rows[2])
        write_json_lines(run.weight_statistics, rows)

    assert f"weights.jsonl:3: {problem}" in refusal(damage)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row.pop("count"), "object missing required field `count`"),
        (lambda row: row.pop("shape"), "object missing required field `shape`"),
        (lambda row: row.update(shape=5), "shape: expected `array`, got `int`"),
        (lambda row: row.pop("rule"), "object missing required field `rule`"),
        (lambda row: row.update(rule=3), "rule: expected `str | null`, got `int`"),
        (lambda row: row.pop("why"), "object missing required field `why`"),
        (lambda row: row.update(why=None), "why: expected `str`, got `null`"),
    ],
)
def test_a_plan_that_no_run_writes(refusal, change, problem):
    def damage(run: RunFolder) -> None:
        rows = [json.loads(line) for line in run.plan.read_text().splitlines()]
        change(rows[1])
        write_json_lines(run.plan, rows)

    assert f"plan.jsonl:2: {problem}" in refusal(damage)


@pytest.mark.parametrize("name", ["audio", "images"])
def test_a_damaged_list_of_media(refusal, name):
    said = refusal(lambda run: (run.path / f"{name}.jsonl").write_text('{"id": 3}\n'))
    assert f"{name}.jsonl:1: id: expected `str`, got `int`; remove the file" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(refusal):
    assert "permissions" in refusal(lambda run: run.phases.chmod(0))


def test_a_file_that_cannot_be_read(refusal, monkeypatch):
    open_ = Path.open

    def failing(path, *arguments, **settings):
        if path.name == "phases.jsonl" and path.parent.name == "damaged":
            raise OSError(5, "Input/output error", str(path))
        return open_(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", failing)
    assert "cannot be read ([Errno 5] Input/output error" in refusal(lambda run: None)


def test_all_refused_leaves_nothing(make_arm):
    folder = make_arm("run", "dsd")
    folder.phases.unlink()
    found = read_runs([folder.path])
    assert found.runs == () and len(found.refused) == 1
