"""Every settings file that is shipped can be read, by the recipe that its name tells."""

import tomllib
from pathlib import Path

import pytest

from seqdsd.config import PROVENANCE, read_config, to_toml
from seqdsd.recipes.catalog import RECIPES, recipe_by_name

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("recipes", "seqdsd/recipes") for path in (REPOSITORY / folder).rglob("*.toml")
)


def test_there_are_settings_files():
    for recipe in RECIPES:  # the settings for the embedded corpus are part of the package
        assert REPOSITORY / "seqdsd" / "recipes" / f"{recipe}_embedded.toml" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_settings_file_can_be_read_and_says_something(path, tmp_path):
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    name = values.get(PROVENANCE, {}).get("recipe", recipe_by_name(path))  # a run's own settings name it
    assert name in RECIPES, f"{path.name} is called after no recipe; known are {', '.join(RECIPES)}"
    default = RECIPES[name].config_class()
    config = read_config(path, default)
    assert config != default
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "again.toml", default) == config
