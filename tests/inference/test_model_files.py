"""Networks of real runs as .dsdz files: what is written is what is used, and what cannot be is refused by name."""

import copy
import json
import resource
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import seqdsd
from seqdsd.cli import main
from seqdsd.compression import SharedTensor, read_compressed, share_weights, write_compressed
from seqdsd.config import read_config
from seqdsd.engine import load_checkpoint, save_checkpoint
from seqdsd.engine.checkpoint import Checkpoint
from seqdsd.inference.model_files import write_model
from seqdsd.inference.trained import load_captioner, load_classifier, load_recogniser
from seqdsd.printable import printable_lines
from seqdsd.recipes import ds1, neuraltalk, vision
from seqdsd.records import RunFolder
from seqdsd.sparsity import magnitude_mask
from seqdsd.tasks import DecodingSettings

KINDS = ("speech", "captions", "classification")
ABOUT = {"corpus": "tones", "terms": "free"}


def compressed(weights: dict[str, torch.Tensor]) -> dict[str, SharedTensor]:
    """Every matrix with half of its weights, of 15 values."""
    return {
        name: share_weights(one, magnitude_mask(one, 0.5), bits=4)
        for name, one in weights.items()
        if one.dim() > 1
    }


@pytest.fixture(scope="module")
def runs(tone_run, caption_run, class_run) -> dict[str, RunFolder]:
    return dict(zip(KINDS, (tone_run, caption_run, class_run), strict=True))


@pytest.fixture(scope="module")
def shared(runs) -> dict[str, dict[str, SharedTensor]]:
    return {
        kind: compressed(load_checkpoint(run.weights("Sparse Iter 1")).tensors) for kind, run in runs.items()
    }


@pytest.fixture(scope="module")
def files(runs, shared, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for kind, run in runs.items():
        write_model(folder / f"{kind}.dsdz", run, "sparse-iter-1", shared[kind], about=ABOUT)
    return {kind: folder / f"{kind}.dsdz" for kind in KINDS}


@pytest.fixture(scope="module")
def same_runs(runs, shared, tmp_path_factory) -> dict[str, RunFolder]:
    """Run folders whose weights are those of the files."""
    folders = {}
    for kind, run in runs.items():
        copied = RunFolder(tmp_path_factory.mktemp("same") / kind)
        shutil.copytree(run.path, copied.path)
        path = copied.weights("Sparse Iter 1")
        tensors = load_checkpoint(path).tensors
        dense = {name: one.dense() for name, one in shared[kind].items()}
        save_checkpoint(path, Checkpoint({**tensors, **dense}, {}))
        folders[kind] = copied
    return folders


@pytest.fixture(scope="module")
def inputs(runs) -> dict[str, list[Path]]:
    """Recordings and images."""
    tones = read_config(runs["speech"].config, ds1.Config()).data
    shapes = read_config(runs["captions"].config, neuraltalk.Config()).data
    classes = read_config(runs["classification"].config, vision.Config()).data
    return {
        "speech": sorted((tones / "test").glob("*.wav")),
        "captions": sorted(shapes.rglob("test*.png"))[:3],
        "classification": sorted((classes / "test").rglob("*.png"))[:5],
    }


def use(network: Any, kind: str, given: list[Path]) -> list[str]:
    name = {"speech": "transcribe", "captions": "caption", "classification": "classify"}[kind]
    return getattr(network, name)(given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_has_the_bits_that_were_written(kind, runs, files, shared):
    state = seqdsd.load(files[kind], device="cpu").model.state_dict()
    written = load_checkpoint(runs[kind].weights("Sparse Iter 1")).tensors
    written |= {name: one.dense() for name, one in shared[kind].items()}
    assert state.keys() == written.keys()
    for name, tensor in state.items():
        assert tensor.dtype == written[name].dtype
        assert tensor.numpy().tobytes() == written[name].numpy().tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_run_with_its_weights_says(kind, files, same_runs, inputs):
    by_file = use(seqdsd.load(files[kind], device="cpu"), kind, inputs[kind])
    by_run = use(seqdsd.load(same_runs[kind].path, phase="Sparse Iter 1", device="cpu"), kind, inputs[kind])
    assert by_file == by_run and len(set(by_file)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_file_tells_where_its_maker_keeps_things(kind, runs, files):
    text = json.dumps(read_compressed(files[kind]).header)
    assert str(runs[kind].path.parent.parent) not in text
    assert "/tmp" not in text and "/home" not in text


def test_commands_lose_their_folders(run_copy, tmp_path, shared):
    said = (
        "python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --data=/home/me/an4 --out '/my runs/an4'"
    )
    text = run_copy.config.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("command = ")]
    run_copy.config.write_text(text.replace(line, f"command = {json.dumps(said)}"))
    kept = 'wget "https://host.org/an4/an4.tgz" -O an4.tgz'
    about = {
        "command": f"seqdsd compress {tmp_path}/run --out ~/an4.dsdz",
        "commands": [kept, "tar xf /home/me/an4.tgz"],
    }
    file = write_model(tmp_path / "x.dsdz", run_copy, None, {}, about=about)
    noted = file.header["provenance"]["command"]
    assert noted == "python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --data=an4 --out an4"
    assert file.header["command"] == "seqdsd compress run --out an4.dsdz"
    assert file.header["commands"] == [kept, "tar xf an4.tgz"]


@pytest.fixture(scope="module")
def run(tone_run) -> RunFolder:
    return tone_run


def test_scores_are_those_of_the_weights_or_none(runs, files, same_runs, shared, tmp_path):
    assert read_compressed(files["speech"]).header["scores"] == {}
    record = runs["speech"].read_phases()[1]
    whole = write_model(tmp_path / "whole.dsdz", runs["speech"], "Sparse Iter 1", {})
    assert whole.header["scores"] == {"dev": record["dev"], "test": record["test"]}
    same = write_model(tmp_path / "same.dsdz", same_runs["speech"], "Sparse Iter 1", shared["speech"])
    assert same.header["scores"] == whole.header["scores"]
    given = {"test": {**record["test"], "substitutions": 7}}
    other = write_model(
        tmp_path / "o.dsdz", runs["speech"], "Sparse Iter 1", shared["speech"], about={"scores": given}
    )
    assert other.header["scores"] == given
    assert load_recogniser(tmp_path / "o.dsdz", device="cpu").phase["test"]["substitutions"] == 7


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"recipe": "ds2"}, "about: recipe is said of the run itself"),
        ({"scores": {"test": {"bleu4": 3}}}, r"scores\.test: .*missing required field `wer`"),
        ({"scores": {"train": {}}}, "scores of 'train', which is no set"),
    ],
)
def test_what_is_not_the_callers_to_say_is_refused(run, tmp_path, about, said):
    with pytest.raises(ValueError, match=said):
        write_model(tmp_path / "x.dsdz", run, None, {}, about=about)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_not_written(run, tmp_path, shared):
    name, one = next(iter(shared["speech"].items()))
    with pytest.raises(ValueError, match=r"'x' \(.*\) is not of the run's network \(it has none\)"):
        write_model(tmp_path / "x.dsdz", run, None, {"x": one})
    turned = SharedTensor(one.codebook, one.codes.flatten())
    with pytest.raises(ValueError, match=rf"'{name}' \(.*\) is not of the run's network \(its '{name}' is"):
        write_model(tmp_path / "x.dsdz", run, None, {name: turned})
    assert not list(tmp_path.iterdir())


def test_dense_tensors_that_training_has_changed_are_written(run, tmp_path):
    weights = load_checkpoint(run.weights("Dense Iter 0")).tensors
    name = next(name for name, one in weights.items() if one.dim() == 1 and one.is_floating_point())
    file = write_model(tmp_path / "x.dsdz", run, "Dense Iter 0", {name: torch.ones_like(weights[name])})
    assert torch.equal(file.tensor(name), torch.ones_like(weights[name]))


def rewritten(path: Path, out: Path, change: Any) -> Path:
    """The same file with another header."""
    file = read_compressed(path)
    header = copy.deepcopy(file.header)
    change(header)
    state = {name: file.shared(name) or file.tensor(name) for name in file.names}
    write_compressed(out, state, header)
    return out


def set_(*keys: str, to: Any) -> Any:
    """Changes a member of the header."""

    def change(header: dict[str, Any]) -> None:
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = to

    return change


LIES = {
    "speech": [
        (lambda header: header.pop("recipe"), "no recipe here has trained"),
        (set_("recipe", to="wav2letter"), "its header names the recipe 'wav2letter', not one known here"),
        (set_("recipe", to=["ds1"]), "its header: recipe: expected `str`"),
        (set_("recipe", to="ds2"), r"not those of the network|unknown setting"),
        (set_("seqdsd", to=2), "from a newer seqdsd .*format 2, this one reads 1.*; install"),
        (lambda header: header.pop("settings"), "its header: .*missing required field `settings`; fetch"),
        (lambda header: header.pop("tokenizer"), "its header: tokenizer: cannot be used"),
        (set_("tokenizer", to={"kind": "subwords", "model": "AAAA"}), "its header: tokenizer: cannot"),
        (set_("tokenizer", "alphabet", to="abc" * 100), "its header: tokenizer: .*repeats"),
        (set_("tokenizer", "alphabet", to="".join(map(chr, range(256, 0xD000)))), "not those of the network"),
        (set_("phase", "name", to="\x1b[31m"), "its header: phase.name: "),
        (
            set_("settings", "hidden_size", to=65_536),
            "not those of the network that the settings in its header",
        ),
        (set_("settings", "hidden_size", to=10**30), "hidden_size must be at most"),
        (set_("settings", "hidden_size", to=10**400), "hidden_size must be at most"),
        (set_("settings", "hidden_size", to="32"), "settings.hidden_size: expected a whole number"),
        (set_("settings", "out", to="/etc"), r"its header has other settings \(out\)"),
        (set_("settings", "network", "dropout", to=10**400), "settings.network.dropout: expected a number"),
        (set_("scores", to={"test": {"wer": "low"}}), "scores.test: wer: expected `float`"),
    ],
    "captions": [
        (set_("vocabulary", "words", to=["<end>", "dog"]), "its header: vocabulary: .*do not fit"),
        (
            lambda header: header["vocabulary"].update(words=["<end>", "a"], counts=[1, 1]),
            "not those of the net",
        ),
        (set_("settings", "max_words", to=10**9), "max_words must be at least 1 and at most"),
        (set_("settings", "encoder", to={"name": "inception"}), "there is no encoder 'inception'"),
    ],
    "classification": [
        (set_("classes", "classes", to=["cat"]), "not those of the network"),
        (set_("classes", "classes", to="circles"), "its header: classes: .*must be names"),
        (set_("classes", "format", "height", to=10**9), "its header: classes: .*whole numbers in"),
        (set_("classes", "format", "height", to=16.0), "its header: classes: cannot be used"),
        (set_("classes", "format", "resize", to=10**9), "its header: classes: .*resize must be at least"),
        (
            set_("classes", "normalisation", to={"mean": [0], "deviation": [1]}),
            "its header: classes: .*a channel",
        ),
        (set_("settings", "images", to={"size": 10**9}), "whole numbers in"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "said"), [(kind, *lie) for kind, lies in LIES.items() for lie in lies]
)
def test_a_header_that_lies_is_refused_at_once(files, tmp_path, kind, change, said):
    path = rewritten(files[kind], tmp_path / "lies.dsdz", change)
    with pytest.raises(ValueError, match=rf"(?s)^{path}: .*{said}"):
        {"speech": load_recogniser, "captions": load_captioner, "classification": load_classifier}[kind](
            path, device="cpu"
        )


def test_layers_without_end_are_refused(files, tmp_path):
    def lie(header: dict[str, Any]) -> None:
        header.update(recipe="ds2", settings={"network": {"num_recurrent_layers": 10**12}})

    path = rewritten(files["speech"], tmp_path / "lies.dsdz", lie)
    with pytest.raises(ValueError, match="num_recurrent_layers must be at least 1 and at most"):
        load_recogniser(path, device="cpu")


def test_no_memory_is_taken_for_weights_that_are_not_there(files, tmp_path):
    """Of a network as large as the settings allow, which no machine has room for."""
    path = rewritten(files["speech"], tmp_path / "lies.dsdz", set_("settings", "hidden_size", to=65_536))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="not those of the network"):
        load_recogniser(path, device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_weights_that_are_not_finite_are_refused_by_name(files, tmp_path):
    file = read_compressed(files["speech"])
    state = file.state_dict()
    name = next(name for name, one in state.items() if one.is_floating_point() and one.dim() == 1)
    state[name][0] = torch.nan
    write_compressed(tmp_path / "nan.dsdz", state, file.header)
    with pytest.raises(
        ValueError, match=rf"nan.dsdz: '{name}' holds NaN or infinity.*; fetch the file again"
    ):
        load_recogniser(tmp_path / "nan.dsdz", device="cpu")


def test_weights_of_other_types_and_shapes_are_refused(files, tmp_path):
    file = read_compressed(files["speech"])
    state = file.state_dict()
    name = next(name for name, one in state.items() if one.dim() == 1 and one.is_floating_point())
    for other in (state[name].to(torch.int8), state[name][:1], None):
        changed = (
            {**state, name: other} if other is not None else {k: v for k, v in state.items() if k != name}
        )
        write_compressed(tmp_path / "x.dsdz", changed, file.header)
        with pytest.raises(ValueError, match="x.dsdz: the weights are not those of the network"):
            load_recogniser(tmp_path / "x.dsdz", device="cpu")


def test_another_kind_is_refused_with_what_it_is_for(files):
    with pytest.raises(
        ValueError, match=f"{files['speech']} was trained by ds1: it is a recogniser; use seqdsd tr"
    ):
        load_captioner(files["speech"], device="cpu")
    with pytest.raises(ValueError, match="a captioner; use seqdsd caption"):
        load_classifier(files["captions"], device="cpu")
    with pytest.raises(TypeError, match="a recogniser; use seqdsd transcribe"):
        seqdsd.load(files["speech"], device="cpu").caption("photo.jpg")


def test_a_file_has_one_phase(files):
    assert (
        load_recogniser(files["speech"], phase="sparse iter 1", device="cpu").phase["name"] == "Sparse Iter 1"
    )
    with pytest.raises(
        ValueError, match="weights of one phase, here 'Sparse Iter 1', not 'Dense Iter 1'.*--phase"
    ):
        load_recogniser(files["speech"], phase="Dense Iter 1", device="cpu")


@pytest.mark.parametrize("content", [b"", b"no network", b"\x89DSDZ\r\n\x1a"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "x.dsdz"
    with pytest.raises(ValueError, match="x.dsdz: cannot be read"):
        load_recogniser(path, device="cpu")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x.dsdz: (not a .dsdz file|cut short)"):
        load_recogniser(path, device="cpu")


# commands -----------------------------------------------------------------------------------------


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("kind", KINDS)
def test_commands_print_what_they_print_of_the_run(kind, files, same_runs, inputs, capsys):
    command = {"speech": "transcribe", "captions": "caption", "classification": "classify"}[kind]
    options = [*inputs[kind], "--device", "cpu", "--json"]
    status, by_file, err = call(capsys, command, files[kind], *options)
    assert status == 0, err
    by_run = call(capsys, command, same_runs[kind].path, *options, "--phase", "Sparse Iter 1")[1]
    assert by_file == by_run != ""


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_scores_what_the_run_scores_and_asks_for_the_data(
    kind, files, same_runs, runs, capsys, feature_cache, monkeypatch
):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))
    status, _, err = call(capsys, "evaluate", files[kind], "--device", "cpu")
    assert status == 1 and f"{files[kind]}: " in err.replace("\n", "") and "--data" in err
    data = tomllib.loads(runs[kind].config.read_text())["data"]
    # A file knows no batches, and other ones round otherwise.
    batches = {"max_batch_seconds": 4.0} if kind == "speech" else {}
    flags = ["--json", "--device", "cpu", *(["--max-batch-seconds", "4"] if batches else [])]
    status, out, err = call(capsys, "evaluate", files[kind], "--data", data, *flags)
    assert status == 0, err
    found = json.loads(out)
    expected = json.loads(
        call(capsys, "evaluate", same_runs[kind].path, "--phase", "Sparse Iter 1", *flags)[1]
    )
    assert found["test"] == expected["test"] and found["phase"] == "Sparse Iter 1"
    network = seqdsd.load(files[kind], device="cpu")
    assert network.evaluate(data, **batches).metrics["test"] == expected["test"]


def test_a_network_of_an_embedded_corpus_knows_its_data(files, tmp_path, monkeypatch, runs):
    path = rewritten(files["classification"], tmp_path / "x.dsdz", set_("data", to=None))
    data = Path(tomllib.loads(runs["classification"].config.read_text())["data"])
    monkeypatch.setattr("seqdsd.inference.evaluate_classes.synthetic_shapes", lambda corpus: data)
    assert seqdsd.load(path, device="cpu").evaluate().metrics["test"]["images"] == 16


def test_export_takes_a_file(files, tmp_path, capsys):
    status, out, err = call(capsys, "export", files["classification"], "--out", tmp_path / "x.pt2")
    assert status == 0, err
    assert "x.pt2: " in out


def test_weights_of_a_language_model_are_kept_beside_the_file(files, runs, tmp_path, capsys, inputs):
    pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
    path = tmp_path / "x.dsdz"
    path.write_bytes(files["speech"].read_bytes())
    data = tomllib.loads(runs["speech"].config.read_text())["data"]
    lm = tmp_path / "lm.arpa"
    assert call(capsys, "build-lm", f"{data}/train.jsonl", "--out", lm, "--order", "2")[0] == 0
    status, _, err = call(capsys, "tune-decoding", path, "--lm", lm, "--device", "cpu")
    assert status == 1 and "--data" in err
    weights = ["--lm-weights", "1", "--word-bonuses", "0.5", "--device", "cpu"]
    status, out, err = call(capsys, "tune-decoding", path, "--lm", lm, "--data", data, *weights)
    assert status == 0, err
    kept = tmp_path / "x.dsdz.decoding.toml"
    assert str(kept) in out.replace("\n", "") and kept.is_file()
    decoding = load_recogniser(path, device="cpu", decoding=DecodingSettings(lm=lm)).recogniser.decoding
    assert (decoding.lm_weight, decoding.word_bonus) == (1, 0.5)


def test_an_alphabet_does_not_steer_the_terminal(files, inputs, tmp_path, capsys):
    def lie(header: dict[str, Any]) -> None:
        alphabet = header["tokenizer"]["alphabet"]
        header["tokenizer"]["alphabet"] = "\x1b\u202e\x9b\x07" + alphabet[4:]

    path = rewritten(files["speech"], tmp_path / "x.dsdz", lie)
    recordings = [*inputs["speech"], "--device", "cpu"]
    for options in ([], ["--json"], ["--timestamps", "ctm"], ["--timestamps", "json"]):
        status, out, err = call(capsys, "transcribe", path, *recordings, *options)
        assert status == 0, err
        assert out and printable_lines(out) == out


def test_messages_do_not_steer_the_terminal(files, tmp_path, capsys, inputs):
    path = rewritten(files["speech"], tmp_path / "x.dsdz", set_("data", to="an4\u202e"))
    status, _, err = call(capsys, "evaluate", path)
    assert status == 1 and "\u202e" not in err and "--data" in err
