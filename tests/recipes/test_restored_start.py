"""Every recipe makes its network anew for restored weights that begin with fresh draws, and the same one each time."""

import pytest
import torch
from rich.console import Console

from seqdsd.engine import load_checkpoint
from seqdsd.recipes import ds1, neuraltalk, vision

RECIPES = {"ds1": ds1, "neuraltalk": neuraltalk, "vision": vision}


@pytest.fixture
def config(request, tmp_path, feature_cache, monkeypatch):
    """Makes settings of a round of one epoch a phase, whose redense phase moves weights by less than 1e-6."""
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))
    settings = {"iters": 1, "epochs": (1,), "sparsities": (0.5,), "restored_start": "fresh"}

    def make(recipe, out, last_rate):
        if recipe == "ds1":
            corpus = request.getfixturevalue("tone_corpus").folder
        elif recipe == "neuraltalk":
            corpus = request.getfixturevalue("shape_corpus")
        else:
            corpus = tmp_path / "classes"
            if not corpus.exists():
                request.getfixturevalue("write_classes")(corpus)
        rates = (1e-3, 1e-3, last_rate)
        tiny = request.getfixturevalue(f"tiny_{recipe}")
        return tiny(corpus, tmp_path / out, learning_rates=rates, **settings)

    return make


@pytest.mark.parametrize("recipe", RECIPES)
def test_fresh_draws_are_of_the_recipe_s_network_and_the_same_for_the_same_seed(config, recipe):
    quiet, found = Console(quiet=True), []
    first = RECIPES[recipe].run(config(recipe, "one", 1e-12), console=quiet)
    # Another run, with the first two phases of that one.
    other = RECIPES[recipe].run(config(recipe, "two", 2e-12), start_from=first.folder.path, console=quiet)
    assert ["taken_over_from" in record for record in other.phases] == [True, True, False]
    for run in (first, other):
        sparse, redense = (
            load_checkpoint(run.folder.weights(run.phases[index]["name"])).tensors for index in (1, 2)
        )
        packed = load_checkpoint(run.folder.mask(run.phases[1]["name"])).tensors
        names = [name for name in packed if not name.endswith("/shape")]
        for name in names:
            pruned = sparse[name] == 0
            assert 0 < int(pruned.sum()) and (redense[name][pruned].abs() > 1e-7).float().mean() > 0.98
        found.append(torch.cat([redense[name].flatten() for name in names]))
        assert run.phases[2]["restored_start"] == "fresh" and run.phases[2]["restored"]["share"] > 0.25
    assert torch.allclose(*found, rtol=0, atol=1e-6)
