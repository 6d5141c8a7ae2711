"""A run by the precision that was found to be the faster one, which it keeps."""

import tomllib
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from seqdsd.engine.precision import MeasuredPrecision
from seqdsd.inference.trained import load_recogniser
from seqdsd.recipes import ds1
from seqdsd.recipes.training import with_noted_precision
from seqdsd.records import RunFolderError
from seqdsd.studies.command_line import read_settings


@pytest.fixture
def found(monkeypatch):
    """What a measurement finds from now on."""

    def set_to(chosen: str, speedup: float = 2.0) -> None:
        monkeypatch.setattr(
            "seqdsd.engine.device.measure_precision", lambda device: MeasuredPrecision(chosen, speedup)
        )

    return set_to


def test_a_run_notes_what_was_found_and_goes_on_with_it(found, tone_corpus, tmp_path, tiny_ds1):
    found("bf16-mixed")
    config = tiny_ds1(tone_corpus.folder, tmp_path / "run", iters=0, epochs=(1,), precision="auto")
    result = ds1.run(config)
    noted = tomllib.loads(result.folder.config.read_text())
    assert noted["precision"] == "bf16-mixed"
    found("32-true")  # another machine, or a busy one
    assert ds1.run(config, resume=True).phases == result.phases
    with pytest.raises(RunFolderError, match="precision: bf16-mixed -> 32-true"):
        ds1.run(replace(config, precision="32-true"), resume=True)


def test_runs_that_are_compared_have_one_precision(found, tone_corpus, tmp_path):
    def common():
        options = Namespace(recipe_file="ds1", recipe=None, out=tmp_path, iters=1, submit=None)
        flags = ["--data", str(tone_corpus.folder), "--device", "cpu"]
        return read_settings(
            options,
            flags,
            prog="seqdsd compare",
            settings_name="comparison.toml",
            reserved=(),
            console=Console(quiet=True),
        )

    found("bf16-mixed")
    recipe, settings, chosen, out = common()
    assert settings.precision == "bf16-mixed"
    recipe.write_common(out / "comparison.toml", settings, chosen)
    found("32-true")
    assert common()[1].precision == "bf16-mixed"


def test_the_first_settings_that_are_there_decide(tmp_path):
    """Of the run itself, or of the one that it takes phases over from."""
    for name in ("32-true", "bf16-mixed"):
        (tmp_path / name).write_text(f'precision = "{name}"\n')
    auto = ds1.Config()
    files = [tmp_path / "missing", tmp_path / "bf16-mixed", tmp_path / "32-true"]
    assert with_noted_precision(auto, files).precision == "bf16-mixed"
    assert with_noted_precision(ds1.Config(precision="32-true"), files).precision == "32-true"
    assert with_noted_precision(auto, files[:1]).precision == "auto"


def test_runs_that_are_sent_elsewhere_are_not_measured_for_here(tone_corpus, tmp_path):
    """A login node may have no GPU, and another processor than those that compute."""
    said = Console(record=True, width=200)
    options = Namespace(recipe_file="ds1", recipe=None, out=tmp_path, iters=1, submit="print")
    settings = read_settings(
        options,
        ["--data", str(tone_corpus.folder), "--device", "cuda"],
        prog="seqdsd compare",
        settings_name="comparison.toml",
        reserved=(),
        console=said,
    )[1]
    assert settings.precision == "32-true" and "name it by -- --precision" in said.export_text()


def test_a_network_that_was_trained_in_bfloat16_is_used_where_that_is_slow(
    found, tone_corpus, tmp_path, tiny_ds1
):
    found("bf16-mixed")
    config = tiny_ds1(tone_corpus.folder, tmp_path / "run", iters=0, epochs=(1,), precision="auto")
    folder = ds1.run(config).folder.path
    products = load_recogniser(folder, device="cpu").model
    found("32-true", 0.1)
    single = load_recogniser(folder, device="cpu").model
    features, num_frames = torch.randn(1, 40, 161), torch.tensor([40])
    with torch.inference_mode():
        exact, rounded = single.module(features, num_frames)[0], products(features, num_frames)[0]
        assert torch.equal(single(features, num_frames)[0], exact)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.2, rtol=0.1)
