"""Every settings file that is shipped can be read, by the recipe whose name it bears."""

import tomllib
from pathlib import Path

import pytest

from seqdsd.config import PROVENANCE, read_config, to_toml
from seqdsd.recipes import ds1, ds2, neuraltalk

REPOSITORY = Path(__file__).parents[1]
RECIPES = {"ds1": ds1.Config, "ds2": ds2.Config, "neuraltalk": neuraltalk.Config}
FILES = sorted(
    path for folder in ("recipes", "seqdsd/recipes") for path in (REPOSITORY / folder).rglob("*.toml")
)


def test_there_are_settings_files():
    for recipe in RECIPES:  # the settings for the embedded corpus are part of the package
        assert REPOSITORY / "seqdsd" / "recipes" / f"{recipe}_embedded.toml" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_settings_file_can_be_read_and_says_something(path, tmp_path):
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    name = values.get(PROVENANCE, {}).get("recipe", path.stem.split("_")[0])  # a run's own settings name it
    assert name in RECIPES, f"{path.name} is called after no recipe; known are {', '.join(RECIPES)}"
    config = read_config(path, RECIPES[name]())
    assert config != RECIPES[name]()
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "again.toml", RECIPES[name]()) == config
