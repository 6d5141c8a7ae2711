import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqdsd.config import read_config, to_toml
from seqdsd.recipes.catalog import RECIPES, UnknownRecipe, find_recipe
from seqdsd.recipes.command import parse_command
from seqdsd.records import RunFolder, RunFolderError, write_atomically

DS1, NEURALTALK = RECIPES["ds1"], RECIPES["neuraltalk"]
PACKAGE = Path(__file__).parents[2] / "seqdsd" / "recipes"
RESERVED = ("--seed", "--resume")


def settings(recipe, *arguments, file=None):
    return recipe.settings(file, arguments, prog="seqdsd something", reserved=RESERVED)[0]


def parsed(recipe, *arguments):
    """As the recipe itself reads a command line."""
    return parse_command(
        recipe.config_class, prog="", description="", without_data=recipe.without_data, argv=arguments
    ).settings


def test_every_recipe_is_in_the_catalog():
    """A recipe is a module with a name and settings for the embedded corpus beside it."""
    assert sorted(RECIPES) == sorted(
        path.stem.removesuffix("_embedded") for path in PACKAGE.glob("*_embedded.toml")
    )
    for name, recipe in RECIPES.items():
        module = importlib.import_module(recipe.module)
        assert (recipe.name, recipe.config_class) == (name, module.Config)


# Which recipe is meant.


def test_a_recipe_alone_has_no_file():
    assert find_recipe("ds1", None) == (DS1, None)
    assert find_recipe("neuraltalk", "neuraltalk") == (NEURALTALK, None)


@pytest.mark.parametrize(
    ("name", "content", "asked", "expected"),
    [
        ("ds1.toml", "", None, DS1),
        ("neuraltalk_big.toml", "", None, NEURALTALK),
        ("mine.toml", "", "ds1", DS1),
        ("lenet300-short.toml", "", None, RECIPES["vision"]),
        ("ds1.toml", "", "neuraltalk", NEURALTALK),
        ("config.toml", '[provenance]\nrecipe = "neuraltalk"\n', None, NEURALTALK),
        ("ds1.toml", '[provenance]\nrecipe = "neuraltalk"\n', None, NEURALTALK),
    ],
)
def test_a_file_tells_its_recipe(tmp_path, name, content, asked, expected):
    path = tmp_path / name
    path.write_text(content)
    assert find_recipe(str(path), asked) == (expected, path)


@pytest.mark.parametrize(
    ("name", "content", "asked", "message"),
    [
        (
            "mine.toml",
            "",
            None,
            "its name does not begin with one of ds1, ds2, neuraltalk, vision; say so by --recipe",
        ),
        ("mine.toml", "", "ds9", "'ds9' is none of ds1, ds2, neuraltalk, vision"),
        ("config.toml", '[provenance]\nrecipe = "ds9"\n', None, "'ds9' is none of"),
        ("ds1.toml", "epochs = [", None, "not a readable TOML file"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path, name, content, asked, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        find_recipe(str(path), asked)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("named", "asked"), [("ds9", None), ("ds1", "neuraltalk")])
def test_neither_a_file_nor_a_recipe(named, asked):
    with pytest.raises(
        UnknownRecipe, match=f"{named}: neither a settings file nor a recipe; recipes are ds1"
    ):
        find_recipe(named, asked)


# Its settings.


def test_settings_of_the_embedded_corpus_the_file_and_the_command_line(tmp_path):
    file = tmp_path / "ds1.toml"
    file.write_text('data = "corpus"\nhidden_size = 7\niters = 3\n')
    assert settings(DS1) == DS1.without_data()
    config = settings(DS1, "--iters", "1", "--optimizer.momentum", "0.5", file=file)
    assert (config.data, config.hidden_size, config.iters) == (Path("corpus"), 7, 1)
    assert config.optimizer.momentum == 0.5
    paper = ("--data", "corpus", "--preset", "paper")
    assert settings(DS1, *paper) == replace(DS1.config_class(), data=Path("corpus"))


@pytest.mark.parametrize("flag", ["--seed", "--seed=3", "--resume", "--no-resume"])
def test_flags_that_the_command_decides_itself_are_refused(flag):
    with pytest.raises(ValueError, match=f"{flag} after --: seqdsd something decides that itself"):
        settings(DS1, "--iters", "1", flag, "3")


def test_reserved_flags_may_be_spelt_with_underscores():
    with pytest.raises(ValueError, match="--start_from=x after --"):
        DS1.settings(None, ["--start_from=x"], prog="p", reserved=["--start-from"])


def test_a_flag_that_is_none_of_the_recipe_s(capsys):
    with pytest.raises(SystemExit):
        settings(DS1, "--beam", "3")
    assert "--beam" in capsys.readouterr().err


# What runs have in common.


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("arguments", [(), ("--data", "corpus", "--preset", "paper", "--epochs", "3", "1")])
def test_runs_started_from_the_common_file_have_the_common_settings(tmp_path, recipe, arguments):
    path, config = tmp_path / "common.toml", settings(recipe, *arguments)
    recipe.write_common(path, config, {})
    assert parsed(recipe, "--config", str(path)) == config
    assert find_recipe(str(path), None) == (recipe, path)


@pytest.fixture
def common(tmp_path):
    """Common settings of a comparison in which a run has been begun: (path, settings)."""
    path, config = tmp_path / "out" / "common.toml", replace(DS1.without_data(), hidden_size=40)
    DS1.write_common(path, config, {})
    begun = path.parent / "seed-0" / "dense" / "config.toml"
    begun.parent.mkdir(parents=True)
    begun.touch()
    return path, config


def test_other_common_settings_are_refused_by_name(common):
    path, config = common
    DS1.check_common(path, config)
    DS1.check_common(path, replace(config, device="cuda", checkpoint_minutes=1.0, out=Path("elsewhere")))
    other = replace(config, hidden_size=41, network=replace(config.network, dropout=0.5))
    with pytest.raises(RunFolderError) as error:
        DS1.check_common(path, other)
    DS1.check_common(path, replace(config, hidden_size=41), of_each=["hidden_size"])
    for expected in (str(path), "hidden_size: 40 -> 41", "network.dropout: 0.0 -> 0.5", "take another --out"):
        assert expected in str(error.value)
    assert read_config(path, DS1.config_class()) == config


@pytest.mark.parametrize("line", ["provenance = 3", "provenance = []", "provenance.recipe = 3"])
def test_a_provenance_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "ds1.toml"
    path.write_text(f"{line}\n")
    with pytest.raises(RunFolderError, match=r"ds1\.toml: \[provenance\]: .*expected"):
        find_recipe(str(path), None)


def test_before_a_run_has_begun_settings_may_be_mended(common):
    path, config = common
    (path.parent / "seed-0" / "dense" / "config.toml").unlink()
    DS1.check_common(path, replace(config, hidden_size=41))
    DS1.check_common(path.parent / "nothing.toml", config)


def test_another_recipe_s_runs_are_refused(common):
    with pytest.raises(RunFolderError, match=r"common\.toml: of runs of 'ds1', among which 'neuraltalk'"):
        NEURALTALK.check_common(common[0], NEURALTALK.without_data())


def test_a_damaged_common_file_is_named(common):
    common[0].write_text("epochs = [")
    with pytest.raises(ValueError, match=r"common\.toml: not a readable TOML file"):
        DS1.check_common(*common)


# Whether a run is finished.


@pytest.fixture
def finished(tmp_path, phase_records):
    """A folder with all of a run that tells whether it is finished: (folder, settings)."""
    config = replace(DS1.without_data(), iters=1, out=tmp_path / "run")
    folder = RunFolder(config.out)
    config.out.mkdir()
    folder.config.write_text(to_toml(config))
    folder.write_phases(phase_records(config.schedule))
    return folder, config


def test_a_run_with_all_its_phases_is_finished(finished, tmp_path):
    folder, config = finished
    assert DS1.has_finished(folder, replace(config, out=Path("elsewhere"), device="cuda"))
    folder.write_phases(folder.read_phases()[:2])
    with pytest.raises(
        RunFolderError, match=r"2 of 3 phases are recorded, but there is neither .* or remove"
    ):
        DS1.has_finished(folder, config)
    write_atomically(folder.checkpoints / "last.safetensors", "to go on from")
    assert not DS1.has_finished(folder, config)
    folder.phases.unlink()
    assert not DS1.has_finished(folder, config)
    assert not DS1.has_finished(RunFolder(tmp_path / "nowhere"), config)


def test_a_run_with_other_settings_is_refused(finished):
    folder, config = finished
    with pytest.raises(
        RunFolderError, match=rf"{folder.path}: the run there has other settings \(seed: 0 -> 1"
    ):
        DS1.has_finished(folder, replace(config, seed=1))


@pytest.mark.parametrize("damage", ["phases", "config"])
def test_a_damaged_run_is_named_with_what_to_do(finished, damage):
    folder, config = finished
    path = getattr(folder, damage)
    path.write_text(path.read_text() + json.dumps({"name": "Dense"})[:-2])
    with pytest.raises(RunFolderError) as error:
        DS1.has_finished(folder, config)
    assert str(path) in str(error.value) and f"remove {folder.path}" in str(error.value)


@pytest.mark.parametrize("count", [1, 3])
def test_records_that_no_run_writes_are_not_taken_for_a_finished_run(finished, count):
    """As many as there are phases, or fewer."""
    folder, config = finished
    folder.write_phases([{}] * count)
    with pytest.raises(
        RunFolderError,
        match=rf"{folder.phases}:1: object missing .* or remove {folder.path}, and it",
    ):
        DS1.has_finished(folder, config)


def test_a_record_that_has_lost_its_scores_is_named(finished):
    folder, config = finished
    records = folder.read_phases()
    del records[1]["dev"]["deletions"]
    folder.write_phases(records)
    with pytest.raises(
        RunFolderError,
        match=rf"{folder.phases}:2: dev: .*`deletions`; .* or remove",
    ):
        DS1.has_finished(folder, config)
