"""Exported networks against the networks themselves, in sizes that the export has not seen."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from seqdsd.cli import main as seqdsd
from seqdsd.inference.export import write_onnx, write_program
from seqdsd.inference.graphs import Graph, acoustic_graph, caption_graphs
from seqdsd.models import DeepSpeech1, DeepSpeech2, NeuralTalk
from seqdsd.records import RunFolder
from seqdsd.text import CharacterTokenizer, SubwordTokenizer, tokenizer_from_json

onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install 'seqdsd[onnx]')")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters, on their own parts


@pytest.fixture(autouse=True, scope="module")
def without_shape_checks():
    """They would be traced into the graph."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


NETWORKS = {
    "ds1": lambda: DeepSpeech1(vocab_size=5, hidden_size=16),
    "ds1 with norms": lambda: DeepSpeech1(vocab_size=5, hidden_size=16, batch_norm=True, dropout=0.5),
    "ds2": lambda: DeepSpeech2(vocab_size=5, hidden_size=16, num_recurrent_layers=2),
    "ds2 forward only": lambda: DeepSpeech2(
        vocab_size=5, hidden_size=16, num_recurrent_layers=2, bidirectional=False, future_frames=3
    ),
}


def ready(model: torch.nn.Module) -> torch.nn.Module:
    """With statistics that are not those of the start, and states that reach the clip."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                torch.nn.init.normal_(module.running_mean)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.normal_(module.bias)
        for name, parameter in model.named_parameters():
            if "recurrent" in name:
                parameter.mul_(1.2)
    return model.eval()


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory) -> Callable[[str], tuple[Path, float]]:
    """A recogniser's file and its difference from the network; each is written once, which takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")

    @cache
    def written(name: str) -> tuple[Path, float]:
        path = folder / f"{name}.onnx"
        return path, write_onnx(acoustic_graph(ready(NETWORKS[name]()), 161), path, {})

    return written


@pytest.fixture(scope="module")
def captioner_files(tmp_path_factory) -> Callable[[bool], dict[str, tuple[Path, float]]]:
    """The same of all files of a captioner, with and without a tanh."""
    folder = tmp_path_factory.mktemp("onnx-captioners")

    @cache
    def written(tanh_output: bool) -> dict[str, tuple[Path, float]]:
        files = {}
        for name, graph in captioner(tanh_output).items():
            path = folder / f"{tanh_output}{name}.onnx"
            files[name] = path, write_onnx(graph, path, {})
        return files

    return written


def captioner(tanh_output: bool = False) -> dict[str, Graph]:
    model = NeuralTalk(vocab_size=11, feature_size=7, hidden_size=8, tanh_output=tanh_output).eval()
    return caption_graphs(model, 7)


def with_facts(path: Path, facts: dict, copy: Path) -> None:
    """A copy of a file that says other things of itself."""
    model = onnx.load(path)
    [said] = [one for one in model.metadata_props if one.key == "seqdsd"]
    said.value = json.dumps(facts)
    onnx.save(model, copy)


@pytest.mark.parametrize("name", NETWORKS)
def test_recognisers(onnx_files, name):
    path, difference = onnx_files(name)
    assert path.is_file() and difference < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_recognisers_as_programs(tmp_path, name):
    assert write_program(acoustic_graph(ready(NETWORKS[name]()), 161), tmp_path / "network", {}) < 1e-4


GATED = {
    "both directions": {},
    "concatenated": {"directions": "concatenated"},
    "concatenated, without norm and FC": {
        "directions": "concatenated",
        "recurrent_norm": False,
        "last_fc": False,
    },
    "forward only": {"bidirectional": False},
}


@pytest.mark.parametrize("tanh_output", [False, True])
def test_captioners(captioner_files, tanh_output):
    files = captioner_files(tanh_output)
    assert len(files) == 3
    assert all(path.is_file() and difference < 1e-5 for path, difference in files.values())


@pytest.mark.parametrize("tanh_output", [False, True])
def test_captioners_as_programs(tmp_path, tanh_output):
    for name, graph in captioner(tanh_output).items():
        assert write_program(graph, tmp_path / f"network{name}", {}) < 1e-5


def test_padding_is_ignored_by_the_file_too(onnx_files):
    session = onnxruntime.InferenceSession(str(onnx_files("ds2")[0]))
    features = np.random.default_rng(0).standard_normal((2, 40, 161)).astype(np.float32)
    lengths = np.array([40, 11])
    whole, out_lengths = session.run(None, {"features": features, "num_frames": lengths})
    alone, _ = session.run(None, {"features": features[1:, :11], "num_frames": lengths[1:]})
    features[1, 11:] = np.nan
    spoilt, _ = session.run(None, {"features": features, "num_frames": lengths})
    assert out_lengths.tolist() == [20, 6]
    np.testing.assert_allclose(whole[1, :6], alone[0], atol=1e-5)
    np.testing.assert_array_equal(spoilt, whole)
    assert (whole[1, 6:] == 0).all()


def gated(cell: str, options: dict) -> torch.nn.Module:
    settings = {"vocab_size": 5, "hidden_size": 16, "num_recurrent_layers": 2, "cell": cell, **options}
    return ready(DeepSpeech2(**settings))


@pytest.mark.parametrize("options", GATED.values(), ids=GATED)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gated_cells_as_programs(tmp_path, cell, options):
    assert write_program(acoustic_graph(gated(cell, options), 161), tmp_path / "network", {}) < 1e-4


@pytest.mark.parametrize("options", GATED.values(), ids=GATED)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gated_cells_in_other_batches_and_lengths(tmp_path, cell, options):
    model = gated(cell, options)
    assert write_onnx(acoustic_graph(model, 161), tmp_path / "network.onnx", {}) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    for lengths in ([3], [90], [17, 64], [64, 17], [5, 120, 33]):
        torch.manual_seed(len(lengths))
        features, num_frames = torch.randn(len(lengths), max(lengths) + 4, 161), torch.tensor(lengths)
        for item, length in zip(features, lengths, strict=True):
            item[length:] = torch.nan
        with torch.no_grad():
            expected, out_lengths = model(features, num_frames)
        actual, of_file = session.run(None, {"features": features.numpy(), "num_frames": num_frames.numpy()})
        assert of_file.tolist() == out_lengths.tolist()
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def run(tone_run) -> RunFolder:
    return tone_run


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    status = 0
    try:
        seqdsd([str(argument) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_transcribe_runs_the_file(run, tmp_path, capsys):
    recordings = sorted((run.path.parent / "tones" / "test").glob("*.wav"))
    path = tmp_path / "new" / "tones.onnx"
    status, out, err = call(capsys, "export", run.path, "--out", path)
    assert status == 0, err
    assert f"{path}: " in out and "from the network" in out
    options = [*recordings, "--timestamps", "json"]
    _, by_run, _ = call(capsys, "transcribe", run.path, *options)
    status, by_file, err = call(capsys, "transcribe", path, *options)
    assert status == 0, err
    for line, other in zip(by_run.splitlines(), by_file.splitlines(), strict=True):
        assert json.loads(line)["segments"] == json.loads(other)["segments"]


def test_the_file_has_nothing_of_pruning_and_says_what_it_is(run, tmp_path, capsys):
    path = tmp_path / "tones.onnx"
    assert call(capsys, "export", run.path, "--out", path, "--phase", "Sparse Iter 1")[0] == 0
    model = onnx.load(path)
    names = [one.name for one in (*model.graph.initializer, *model.graph.node)]
    assert not any("mask" in name and "masked_fill" not in name for name in names)
    assert {one.domain for one in model.opset_import} == {""}  # ONNX's own operators alone
    facts = json.loads(next(one.value for one in model.metadata_props if one.key == "seqdsd"))
    assert (facts["phase"], facts["recipe"], facts["frame_seconds"]) == ("Sparse Iter 1", "ds1", 0.02)


@pytest.mark.parametrize(
    ("content", "what"), [(b"no onnx", "onnxruntime cannot load it"), (b"", "onnxruntime cannot load it")]
)
def test_what_is_no_such_file_is_refused(tmp_path, capsys, content, what):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    status, _, err = call(capsys, "transcribe", path, tmp_path)
    assert status == 1
    (tmp_path / "a.wav").write_bytes(b"")
    status, _, err = call(capsys, "transcribe", path, tmp_path / "a.wav")
    assert status == 1 and f"{path}: {what}" in err.replace("\n", " ")


def test_another_onnx_file_is_refused(captioner_files, tmp_path, capsys):
    path, _ = captioner_files(False)[""]
    (tmp_path / "a.wav").write_bytes(b"")
    status, _, err = call(capsys, "transcribe", path, tmp_path / "a.wav")
    assert status == 1 and "not a recogniser that seqdsd export has written" in err


def test_a_wrong_ending_is_refused(run, capsys):
    status, _, err = call(capsys, "export", run.path, "--out", "model.bin")
    assert status != 0 and ".onnx or .pt2" in err


def test_tokenizers_survive_json():
    characters = CharacterTokenizer(" ab")
    subwords = SubwordTokenizer.train(["one two", "two three", "three one"], 12)
    for tokenizer in (characters, subwords):
        again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
        text = "a b" if tokenizer is characters else "two one"
        assert again.encode(text) == tokenizer.encode(text)
    with pytest.raises(ValueError, match="not the description of a tokenizer"):
        tokenizer_from_json({"kind": "runes"})


@pytest.mark.parametrize("write", [write_onnx, write_program])
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, write):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "network"
    with pytest.raises(OSError, match="network: cannot be written .*make room or correct the path"):
        write(captioner()[""], path, {})
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_graph_of_another_kind_with_our_metadata_is_refused(onnx_files, captioner_files, tmp_path):
    from seqdsd.inference.onnx_files import load_exported_recogniser
    from seqdsd.tasks import DecodingSettings
    from seqdsd.text import CharacterTokenizer

    facts = {"tokenizer": CharacterTokenizer().to_json(), "frame_seconds": 0.02}
    with_facts(captioner_files(False)[""][0], facts, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"x.onnx: not a recogniser .*inputs and outputs are"):
        load_exported_recogniser(tmp_path / "x.onnx", DecodingSettings())
    with_facts(onnx_files("ds1")[0], {**facts, "frame_seconds": -1}, tmp_path / "y.onnx")
    with pytest.raises(ValueError, match="y.onnx: not a recogniser"):
        load_exported_recogniser(tmp_path / "y.onnx", DecodingSettings())
