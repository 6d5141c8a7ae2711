"""The networks that come with the package: usable by name, and described by nothing but their own headers."""

import csv
import json
import os
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import seqdsd
from seqdsd.cli import COMMANDS, main
from seqdsd.compression import SharedTensor, file_sizes, read_compressed, write_compressed
from seqdsd.data import read_captions
from seqdsd.data.captions import CaptionedImage
from seqdsd.data.synthetic.scenes import SyntheticScenes, synthetic_scenes
from seqdsd.inference.model_files import READY, SavedFile
from seqdsd.inference.ready import About, card, located, read_about, ready_files
from seqdsd.kinds import KIND_OF_RECIPE
from seqdsd.metrics import bleu, wer
from seqdsd.recipes.catalog import RECIPES

REPOSITORY = Path(__file__).parents[2]
NAME = "mnist-lenet300"


@pytest.fixture
def digit(tmp_path) -> Path:
    """A one, as MNIST has it: light on dark."""
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).line([(15, 5), (13, 22)], fill=255, width=3)
    image.save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_they_are_small():
    names = "an4-ds2 flickr8k-neuraltalk mnist-lenet300 mnist-lenet5 shapes-neuraltalk"
    assert ready_files().keys() == set(names.split())
    assert sum(path.stat().st_size for path in READY.iterdir()) < 2_000_000


@pytest.mark.parametrize("name", ready_files())
def test_each_says_what_it_is_and_how_to_make_it(name):
    about = read_compressed(ready_files()[name]).header
    said = tomllib.loads((READY / f"{name}.toml").read_text(encoding="utf-8"))
    assert said.keys() == set(About.__struct_fields__) and all(said.values())
    assert {member: about[member] for member in said} == said
    assert about["scores"].keys() >= {"dev", "test"}
    *_, training, compression = map(shlex.split, about["commands"])
    assert training[:2] == ["python", "-m"] and training[2] == RECIPES[about["recipe"]].module
    for argument in training:
        assert not argument.endswith(".toml") or (REPOSITORY / argument).is_file()
    # The command that is told is the one that was run, but for where files lay.
    assert compression[:2] == ["seqdsd", "compress"]
    assert compression[compression.index("--about") + 1] == f"seqdsd/networks/{name}.toml"
    assert _options(compression) == _options(_run(about))


def _run(about: dict) -> list[str]:
    return shlex.split(about["provenance"]["command"])


def _options(command: list[str]) -> list[str]:
    """What follows the name of the file, without the place of what is said; one that went on is the same."""
    options = [one for one in command[command.index("--out") + 2 :] if one != "--resume"]
    if "--about" in options:
        del options[options.index("--about") : options.index("--about") + 2]
    return options


def test_a_network_is_used_by_its_name(digit, capsys, monkeypatch):
    assert seqdsd.load(NAME).classify(digit) == ["1"]
    main(["classify", NAME, str(digit)])
    assert capsys.readouterr().out.startswith(f"{digit}\t1\t")
    main(["inspect", NAME, "--json"])
    assert json.loads(capsys.readouterr().out)["size_bytes"] == ready_files()[NAME].stat().st_size
    with pytest.raises(SystemExit):
        main(["evaluate", NAME])
    error = capsys.readouterr().err
    assert "it was trained on 'mnist'" in error and "--data" in error


def test_a_path_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(Path(NAME)) == ready_files()[NAME]
    (tmp_path / NAME).mkdir()
    assert located(Path(NAME)) == Path(NAME)
    with pytest.raises(ValueError, match=f"{NAME}: not a run folder .it has no config.toml"):
        seqdsd.load(NAME)


@pytest.mark.parametrize("command", ["transcribe", "caption", "classify", "evaluate", "inspect", "models"])
def test_an_unknown_name_says_which_there_are(command, digit, capsys):
    assert command in COMMANDS
    items = [str(digit)] if command in ("transcribe", "caption", "classify") else []
    with pytest.raises(SystemExit) as stopped:
        main([command, "mnist-lenet3000", *items])
    assert stopped.value.code in (1, 2)
    error = " ".join(capsys.readouterr().err.split())
    assert "mnist-lenet3000: not a run folder" in error and NAME in error and "seqdsd models" in error


def test_a_file_that_is_not_there_says_which_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"{NAME}.dsdz: not a run folder.*{NAME}.*seqdsd models"):
        located(Path(f"{NAME}.dsdz"))


def test_nothing_is_written_into_the_package(tmp_path):
    assert SavedFile.read(ready_files()[NAME]).decoding == Path(f"{NAME}.dsdz.decoding.toml")
    own = tmp_path / "own.dsdz"
    own.write_bytes(ready_files()[NAME].read_bytes())
    assert SavedFile.read(own).decoding == tmp_path / "own.dsdz.decoding.toml"


def test_another_kind_says_what_it_is():
    with pytest.raises(TypeError, match=rf"{NAME}.dsdz: it is an image classifier; use seqdsd classify"):
        seqdsd.load(NAME).caption("photo.jpg")


def test_inspect_shows_what_made_it(capsys):
    main(["inspect", NAME])
    out = capsys.readouterr().out
    for command in read_compressed(ready_files()[NAME]).header["commands"]:
        assert command in out


def test_commands_of_a_card_name_the_file_as_it_is(others, tmp_path):
    path = others().rename(tmp_path / "my classify.dsdz")
    text = card("my classify", SavedFile.read(path))
    assert f"`seqdsd classify '{path}' image.png`" in text
    assert f"`seqdsd evaluate '{path}' --data DATA`" in text


def test_a_card_says_what_its_scores_were_found_with():
    saved = SavedFile.read(ready_files()["flickr8k-neuraltalk"])
    command = "seqdsd evaluate flickr8k-neuraltalk --data DATA --features efficientnet_lite0_feats_f16.npy"
    assert f"As found by `{command}`." in card("flickr8k-neuraltalk", saved)


def test_what_is_said_of_a_network_has_to_be_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"no\.toml: cannot be read: No such file or directory"):
        read_about(tmp_path / "no.toml")


DATA = Path(os.environ.get("SEQDSD_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "an4").is_dir(), reason="AN4 is not there")
def test_an4_is_heard():
    """62 of 773 words of the whole test set are wrong: 8 %."""
    with (DATA / "an4" / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[::5]
    heard = seqdsd.load("an4-ds2", device="cpu").transcribe([DATA / "an4" / row["path"] for row in rows])
    found = wer([row["text"].lower() for row in rows], heard)
    assert found.ref_length > 100 and found.rate < 0.16


def references(image: CaptionedImage) -> list[str]:
    return [" ".join(words) for words in image.captions]


@pytest.mark.skipif(not (DATA / "flickr8k").is_dir(), reason="Flickr8k is not there")
def test_photographs_are_captioned():
    """From the images of 128 x 128 pixels the whole test set has a BLEU-1 of 0.56, a BLEU-4 of 0.16."""
    corpus = read_captions(DATA / "flickr8k")
    photographs = corpus.test[::20]
    said = seqdsd.load("flickr8k-neuraltalk", device="cpu").caption([one.path for one in photographs])
    found = bleu([references(one) for one in photographs], said)
    assert found.bleu1 > 0.45 and found.bleu4 > 0.06


def test_drawn_shapes_are_captioned(tmp_path):
    """64.7 is the whole test set's BLEU-4."""
    folder = synthetic_scenes(SyntheticScenes(train_images=1, dev_images=1, test_images=24), tmp_path)
    drawings = read_captions(folder).test
    said = seqdsd.load("shapes-neuraltalk", device="cpu").caption([one.path for one in drawings])
    assert bleu([references(one) for one in drawings], said).bleu4 > 0.45


def test_the_list_is_of_the_headers(capsys):
    main(["models", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(ready_files())
    for row in rows:
        file = read_compressed(row["path"])
        assert row["size_bytes"] == file.size_bytes and row["scores"] == file.header["scores"]
        assert row["dense_bytes"] == sum(one.nbytes for one in file.state_dict().values())
    main(["models"])
    text = capsys.readouterr().out
    score = 100 * read_compressed(ready_files()[NAME]).header["scores"]["test"]["top1_error"]
    assert NAME in text and f"{score:.2f}" in text
    for row in rows:
        assert (
            row["title"] in text
            and row["terms"] in text
            and all(command in text for command in row["commands"])
        )


def test_a_card_is_of_the_file(capsys):
    main(["models", NAME, "--card"])
    text = capsys.readouterr().out
    file = read_compressed(ready_files()[NAME])
    for member in ("title", "corpus", "terms", "licence", "use", "limits"):
        assert file.header[member] in text
    assert f"```sh\n{chr(10).join(file.header['commands'])}\n```" in text
    assert f"{file.size_bytes:,} bytes, {file_sizes(file).ratio:.1f} times smaller" in text
    scores = file.header["scores"]["test"]
    assert f"| test | {100 * scores['top1_error']:.2f} |" in text and f"| {scores['images']} |" in text
    table = text.split("## What its bytes go into")[1].split("Bits of each")[0]
    sizes = [int(line.split("|")[-2].strip().replace(",", "")) for line in table.splitlines()[4:] if line]
    assert sum(sizes[:-1]) == sizes[-1] == file.size_bytes


@pytest.fixture
def others(tmp_path):
    """Files of the same network whose headers say something else."""
    file = read_compressed(ready_files()[NAME])
    state: dict = {name: file.shared(name) or file.tensor(name) for name in file.names}
    assert any(isinstance(one, SharedTensor) for one in state.values())

    def write(**about) -> Path:
        path = tmp_path / "other.dsdz"
        write_compressed(path, state, {**file.header, **about})
        return path

    return write


def test_a_card_of_ones_own_file(others, capsys):
    path = others(title="a | b <script>\x1b[31m\n# c", commands=[], terms="")
    main(["models", str(path), "--card"])
    text = capsys.readouterr().out
    assert r"a \| b &lt;script>\x1b[31m\n# c" in text and "\x1b" not in text
    assert "terms of the data" not in text
    assert f"`seqdsd classify {path} image.png`" in text
    assert _run(SavedFile.read(path).about)[-1] in text.split("```sh")[1]
    assert card("other", SavedFile.read(path)) == text


@pytest.mark.parametrize("wrong", [{"title": 3}, {"commands": "one"}, {"commands": [[]]}, {"corpus": {}}])
def test_a_header_that_cannot_be_shown_is_refused(others, capsys, wrong):
    with pytest.raises(SystemExit):
        main(["models", str(others(**wrong)), "--card"])
    assert f"other.dsdz: its header: {next(iter(wrong))}" in capsys.readouterr().err.replace("\n", " ")


def test_what_a_maker_says_is_checked_before_training(tmp_path, capsys):
    (tmp_path / "about.toml").write_text('titles = "x"')
    with pytest.raises(SystemExit):
        main(["compress", str(tmp_path), "--out", "a.dsdz", "--about", str(tmp_path / "about.toml")])
    error = capsys.readouterr().err
    assert "about.toml" in error and "titles" in error and "its members may be title, corpus" in error


def test_pixels_by_name():
    assert seqdsd.load(NAME).classify(np.zeros((28, 28, 3), np.uint8))[0] in "0123456789"


def test_the_docs_say_what_the_files_do():
    text = (REPOSITORY / "docs" / "ready-networks.md").read_text(encoding="utf-8")
    for name, path in ready_files().items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        *_, score, size = (cell.strip() for cell in row.strip("|").split("|"))
        metric = KIND_OF_RECIPE[SavedFile.read(path).recipe()].primary
        assert int(size) == round(path.stat().st_size / 1000)
        value = SavedFile.read(path).about["scores"]["test"][metric.key]
        assert score.casefold() == f"{metric.title} {metric.written(value)} {metric.unit}".strip().casefold()
