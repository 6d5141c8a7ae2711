import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.config import ConfigError, differences, read_config, to_toml
from seqdsd.engine import AdamWSettings, AdaptiveSettings, NesterovSettings
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.command import parse_command


@dataclass(frozen=True)
class Inner:
    momentum: float = 0.9
    name: str | None = None

    def __post_init__(self):
        if self.momentum > 1:
            raise ValueError(f"momentum must not be above 1, got {self.momentum}")


@dataclass(frozen=True)
class Outer:
    """All kinds of fields."""

    data: Path | None = None
    """Where the data is."""
    hidden_size: int = 8
    """How many units."""
    rates: tuple[float, ...] = (0.1,)
    epochs: tuple[int, ...] = (5, 6)
    kind: Literal["small", "large"] = "small"
    bright: bool = False
    inner: Inner = field(default_factory=Inner)


def read(tmp_path, text, base=None):
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, base or Outer())


configs = st.builds(
    Outer,
    data=st.none() | st.sampled_from([Path("a/b"), Path("/c d/ü")]),
    hidden_size=st.integers(-(2**40), 2**40),
    rates=st.lists(st.floats(allow_nan=False), max_size=4).map(tuple),
    epochs=st.lists(st.integers(0, 99), max_size=4).map(tuple),
    kind=st.sampled_from(["small", "large"]),
    bright=st.booleans(),
    inner=st.builds(Inner, momentum=st.floats(-5, 1), name=st.none() | st.text(st.characters(codec="utf-8"))),
)


@given(config=configs)
def test_what_is_written_reads_back_equal(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("config")
    text = to_toml(config, {"seed": 3, "versions": {"torch": "2"}})
    assert read(folder, text) == config and read(folder, to_toml(config)) == config


def test_a_file_overrides_only_what_it_names(tmp_path):
    base = Outer(hidden_size=9, inner=Inner(name="x"))
    config = read(tmp_path, "rates = [1, 0.5]\n[inner]\nmomentum = 1\n", base)
    assert config == Outer(hidden_size=9, rates=(1.0, 0.5), inner=Inner(momentum=1.0, name="x"))
    assert all(type(value) is float for value in (*config.rates, config.inner.momentum))


def test_types_of_the_values(tmp_path):
    config = read(tmp_path, 'data = "x/y"\nkind = "large"\nbright = true\nepochs = []\n[inner]\nname = "n"')
    assert config == Outer(data=Path("x/y"), kind="large", bright=True, epochs=(), inner=Inner(name="n"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("hiden_size = 3", r"unknown setting 'hiden_size'; did you mean 'hidden_size'\?"),
        ("[inner]\nmomentun = 3", r"inner\.unknown setting 'momentun'; did you mean 'momentum'\?"),
        ("zzz = 3", r"unknown setting 'zzz'; known are data, hidden_size"),
        ("hidden_size = 3.0", r"hidden_size: expected a whole number, got 3\.0"),
        ("hidden_size = true", r"hidden_size: expected a whole number, got True"),
        ('hidden_size = "3"', r"hidden_size: expected a whole number, got '3'"),
        ("hidden_size = [3]", r"hidden_size: expected a whole number, got \[3\]"),
        ("rates = 0.1", r"rates: expected an array of a number, got 0\.1"),
        (f"rates = [{'9' * 400}]", r"rates\[0\]: expected a number, got 99"),
        ('rates = [0.1, "x"]', r"rates\[1\]: expected a number, got 'x'"),
        ("epochs = [1.5]", r"epochs\[0\]: expected a whole number, got 1\.5"),
        ("data = 3", r"data: expected a path, got 3"),
        ("bright = 1", r"bright: expected true or false, got 1"),
        ('kind = "medium"', r"kind: expected 'small' or 'large', got 'medium'"),
        ("kind = []", r"kind: expected 'small' or 'large', got \[\]"),
        ("inner = 3", r"inner: expected .*, got 3"),
        ("[inner]\nname = 3", r"inner\.name: expected a string, got 3"),
        ("[inner]\nmomentum = 2", r"inner\..*momentum must not be above 1, got 2"),
        ("hidden_size = ", r"not a readable TOML file"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, text, what):
    with pytest.raises(ConfigError, match=rf"settings\.toml: {what}"):
        read(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_config(tmp_path / "none.toml", Outer())
    (tmp_path / "latin1.toml").write_bytes(b'data = "\xfc"')
    with pytest.raises(ConfigError, match=r"latin1\.toml: not a readable TOML file"):
        read_config(tmp_path / "latin1.toml", Outer())


def test_differences_name_the_settings():
    other = Outer(data=Path("a"), rates=(0.1, 0.2), inner=Inner(momentum=0.5))
    assert differences(Outer(), other) == [
        "rates: [0.1] -> [0.1, 0.2]",
        "inner.momentum: 0.9 -> 0.5",
        "data: None -> a",
    ]
    assert differences(other, other) == []


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"] = "circle"
    width: float = 1.0
    radius: float = 2.0


@dataclass(frozen=True)
class Polygon:
    kind: Literal["square", "hexagon"] = "square"
    width: float = 3.0
    side: float = 4.0


@dataclass(frozen=True)
class Drawing:
    shape: Circle | Polygon = field(default_factory=Circle)


@pytest.mark.parametrize(
    ("base", "text", "expected"),
    [
        (Circle(radius=5.0), "width = 9", Circle(width=9.0, radius=5.0)),  # without a kind it stays
        (Circle(radius=5.0), 'kind = "circle"', Circle(radius=5.0)),
        (Polygon(side=6.0), "side = 7", Polygon(side=7.0)),
        (Polygon(width=6.0), 'kind = "hexagon"', Polygon("hexagon", width=6.0)),
        (Circle(width=9.0), 'kind = "hexagon"\nside = 1', Polygon("hexagon", width=3.0, side=1.0)),
        (Polygon(width=9.0), 'kind = "circle"', Circle(width=1.0)),
    ],
)
def test_the_kind_in_a_file_picks_the_class(tmp_path, base, text, expected):
    config = read(tmp_path, f"[shape]\n{text}", Drawing(base))
    assert config == Drawing(expected)
    assert (
        read(tmp_path, to_toml(config), Drawing()) == read(tmp_path, to_toml(config), Drawing(base)) == config
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('kind = "cube"', r"shape\.kind: expected 'circle' or 'square' or 'hexagon', got 'cube'"),
        ("kind = [3]", r"shape\.kind: expected 'circle' or 'square' or 'hexagon', got \[3\]"),
        ("side = 3", r"shape\.side: not a setting of kind 'circle' but of 'square' and 'hexagon'"),
        ('kind = "square"\nradius = 3', r"shape\.radius: not a setting of kind 'square' but of 'circle'"),
        ("radus = 3", r"shape\.unknown setting 'radus'; did you mean 'radius'\?"),
        ('kind = "square"\nwidth = "x"', r"shape\.width: expected a number, got 'x'"),
    ],
)
def test_what_no_kind_or_another_one_knows_is_named(tmp_path, text, what):
    with pytest.raises(ConfigError, match=rf"settings\.toml: {what}"):
        read(tmp_path, f"[shape]\n{text}", Drawing())


def parse(*argv, recipe=ds1, without_data=None):
    return parse_command(
        recipe.Config,
        prog="ds1",
        description="",
        without_data=without_data or ds1.RECIPE.embedded_settings,
        argv=[str(arg) for arg in argv],
    )


def test_the_optimizer_s_kind_on_the_command_line_brings_its_flags(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[optimizer]\nmomentum = 0.8\n")
    common = ("--config", path, "--data", "d")
    assert parse(*common).settings.optimizer == NesterovSettings(momentum=0.8)
    adamw = parse(*common, "--optimizer.kind", "adamw", "--optimizer.decay", "0.95").settings.optimizer
    assert adamw == AdamWSettings(decay=0.95)  # that kind's own momentum
    assert parse(*common, "--optimizer.kind=nesterov").settings.optimizer == NesterovSettings(momentum=0.8)
    captions = parse("--data", "d", "--optimizer.kind", "adam", recipe=neuraltalk).settings.optimizer
    assert captions == AdaptiveSettings("adam")
    path.write_text('[optimizer]\nkind = "adamw"\nclip_norm = 5\n')
    assert parse(*common, "--optimizer.decay", "0.95").settings.optimizer == AdamWSettings(
        decay=0.95, clip_norm=5.0
    )
    back = parse(*common, "--optimizer.kind", "nesterov", "--optimizer.momentum", "0.5").settings.optimizer
    assert back == NesterovSettings(momentum=0.5)


def test_a_run_s_settings_of_before_there_were_kinds_stay_what_they_were(tmp_path):
    """Whatever the embedded corpus's have become since: a run's own file is whole."""
    path = tmp_path / "config.toml"
    path.write_text('[optimizer]\nmomentum = 0.8\n[provenance]\nrecipe = "ds1"\n')
    now = lambda: ds1.Config(optimizer=AdamWSettings())  # noqa: E731
    assert parse("--config", path, without_data=now).settings.optimizer == NesterovSettings(momentum=0.8)
    path.write_text("[optimizer]\nmomentum = 0.8\n")  # a file of one's own changes the embedded settings
    assert parse("--config", path, without_data=now).settings.optimizer == AdamWSettings(momentum=0.8)


def test_defaults_give_way_to_the_file_and_the_file_to_the_command_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        "hidden_size = 64\nepochs = [7]\nseed = 5\n[optimizer]\nmomentum = 0.8\nclip_norm = 5.0\n"
    )
    settings = parse("--config", path, "--seed", 6, "--optimizer.clip-norm", 9, "--data", "d").settings
    assert (settings.seed, settings.hidden_size, settings.epochs) == (6, 64, (7,))
    assert (settings.optimizer.momentum, settings.optimizer.clip_norm) == (0.8, 9.0)
    assert settings.learning_rates == ds1.Config().learning_rates and settings.data == Path("d")
    assert parse(f"--config={path}").settings.hidden_size == 64


def test_without_data_the_settings_are_the_embedded_corpus_s():
    assert parse().settings == ds1.RECIPE.embedded_settings() != ds1.Config()
    assert parse("--data", "d").settings == ds1.Config(data=Path("d"))


def test_flags_that_every_recipe_has():
    command = parse(
        *("--data", "d", "--out", "o", "--iters", 3, "--epochs", 4, "--hidden-size", 32, "--seed", 7),
        *("--resume", "--device", "cpu", "--precision", "bf16-mixed", "--dry-run"),
    )
    expected = ds1.Config(
        data=Path("d"),
        out=Path("o"),
        iters=3,
        epochs=(4,),
        hidden_size=32,
        seed=7,
        device="cpu",
        precision="bf16-mixed",
    )
    assert command.settings == expected
    assert command.invocation.resume and command.invocation.dry_run


def test_help_shows_the_flags_of_the_kind_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    shown = {}
    for kind in ("nesterov", "adamw"):
        with pytest.raises(SystemExit):
            parse("--optimizer.kind", kind, "--help")
        shown[kind] = " ".join(capsys.readouterr().out.split())
        assert (
            "rises in a line from 0.04 of its peak" in shown[kind]
            and "half a cosine to a thousandth" in shown[kind]
        )
    assert "--optimizer.kind adamw takes AdamW" in shown["nesterov"]
    assert "--optimizer.decay" in shown["adamw"] and "--optimizer.decay" not in shown["nesterov"]
    assert "(default: cosine)" in shown["adamw"] and "(default: cosine)" not in shown["nesterov"]


def test_help_shows_every_field_with_its_docstring(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for flag, text in {
        "--config": "TOML file with settings",
        "--resume": "start it where there is none",
        "--dry-run": "train nothing",
        "--hidden-size": "Units of every hidden layer",
        "--epochs": "Epochs of each phase",
        "--on-bad-data": "skip it and list it",
        "--network.batch-norm": "small corpora need it",
        "--tokenizer.vocab-size": "Number of sub-words",
        "--optimizer.momentum": "Of the mean gradient",
        "--batches.max-batch-seconds": "padding included",
        "--augment.speed-factors": "Each utterance is played",
    }.items():
        assert flag in shown and text in " ".join(shown.split())


@pytest.mark.parametrize(
    ("argv", "what", "code"),
    [
        (["--hidden-size", "0"], "hidden_size must be at least 1, got 0", 1),
        (["--optimizer.momentum", "1.5"], "momentum must be in (0, 1), got 1.5", 2),
        (["--optimizer.kind", "adam"], "--optimizer.kind: expected 'nesterov' or 'adamw', got 'adam'", 1),
        (["--optimizer.kind", "adamw", "--optimizer.decay", "1"], "decay must be in [0, 1), got 1.0", 2),
        (["--epochs", "0"], "epochs must be at least 1, got 0", 1),
        (["--hiden-size", "3"], "--hidden-size", 2),
        (["--seed", "x"], "--seed", 2),
        (["--config", "[b]none[/i].toml"], "[b]none[/i].toml: no such file", 1),  # brackets are no markup
    ],
)
def test_wrong_flags_are_explained_without_a_traceback(capsys, argv, what, code):
    with pytest.raises(SystemExit) as stopped:
        ds1.main(["--data", "d", "--preset", "paper", *argv])
    assert stopped.value.code == code
    shown = capsys.readouterr()
    assert what in " ".join((shown.out + shown.err).split()) and "Traceback" not in shown.err


def test_bad_settings_in_a_file_name_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("iters = -1\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: iters must be at least 0, got -1"):
        parse("--config", path)


def test_importing_the_recipe_reads_no_arguments():
    assert "seqdsd.recipes.ds1" in sys.modules and ds1.Config().hidden_size == 1024
