"""What ``seqdsd inspect`` prints of files, against the files' own bytes."""

import io
import json
import re

import pytest
import torch
import zstandard
from rich.console import Console

from seqdsd.cli import main
from seqdsd.compression import file_sizes, read_compressed, share_weights, write_compressed
from seqdsd.engine import load_checkpoint
from seqdsd.inference.inspect_file import show
from seqdsd.inference.model_files import write_model
from seqdsd.printable import printable_lines
from seqdsd.sparsity import magnitude_mask

SCORES = {"wer": 0.25, "substitutions": 1, "deletions": 1, "insertions": 0, "ref_words": 8}


def shared(weight: torch.Tensor):
    return share_weights(weight, magnitude_mask(weight, 0.9), bits=4)


@pytest.fixture
def plain(tmp_path):
    """Of somebody's own module, with a header of their own."""
    torch.manual_seed(0)
    state = {
        "first.weight": shared(torch.randn(300, 200)),
        "a.very.long.name.of.a.layer.in.a.deep.network.that.does.not.end.weight": shared(torch.randn(50, 40)),
        "first.bias": torch.randn(300),
        "steps": torch.tensor(7),
    }
    header = {"made by": "me \x1b[31m\u202e", "words": ["word"] * 1000, "epochs": 3}
    return write_compressed(tmp_path / "plain.dsdz", state, header)


def shown(file, width: int = 100) -> str:
    out = io.StringIO()
    show(file, file_sizes(file), Console(file=out, width=width))
    return out.getvalue()


def cells(text: str, name: str) -> list[str]:
    """A row's cells behind its name."""
    [line] = [line for line in text.splitlines() if line.strip().startswith(name + " ")]
    return re.split(r"\s{2,}", line.strip().removeprefix(name).strip())


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_every_byte_of_the_file_is_in_the_table(plain):
    text = shown(plain)
    size = plain.path.stat().st_size
    assert number(cells(text, "all")[-2]) == size
    rows = [cells(text, name)[-2] for name in ("first.weight", "dense tensors: 2")]
    [long] = [entry.size_bytes for entry in plain.entries if entry.names[0].startswith("a.very")]
    assert sum(map(number, rows)) + long + number(cells(text, "header")[-1]) == size
    dense = 4 * (300 * 200 + 50 * 40 + 300) + 8
    assert cells(text, "all")[-1] == f"{dense / size:.1f}"
    assert f"{size:,} bytes of {dense:,}" in text


def test_a_row_says_what_the_layer_has(plain):
    row = cells(shown(plain), "first.weight")
    [entry] = [entry for entry in plain.entries if entry.names == ("first.weight",)]
    assert row[:2] == ["60,000", "10.0%"]
    before, after = (float(one) for one in row[2].split(" → "))
    index_before, index_after = (float(one) for one in row[3].split(" → "))
    # 15 values and a filler, in fixed bits; then no more than the published coding takes.
    assert 4 <= before <= 4.5 and after <= 4 and index_after < index_before
    codebook = 2 + 15 * 2
    assert (after + index_after) * 6000 / 8 + codebook == pytest.approx(entry.size_bytes, rel=0.02)


def test_other_compressors_are_given_the_same_weights(plain):
    text = shown(plain)
    tensors = [plain.tensor(entry.names[0]) for entry in plain.entries]
    compress = zstandard.ZstdCompressor(level=19).compress
    of_floats = sum(len(compress(one.numpy().tobytes())) for one in tensors)
    assert number(cells(text, "pruned and shared, as floats, zstd")[0]) == of_floats
    assert (
        "pruned weights, zstd" not in text
    )  # what they were before they shared values the file does not hold
    sizes = [
        number(cells(text, name)[0])
        for name in ("uncompressed", "pruned and shared, as codes, zstd", "this file")
    ]
    assert sizes[0] == sum(one.numel() * one.element_size() for one in tensors)
    assert sizes[0] > of_floats > sizes[1] and sizes[2] == plain.size_bytes


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_and_steers_no_terminal(plain, width):
    text = shown(plain, width)
    assert printable_lines(text) == text and r"me \x1b[31m\u202e" in text
    assert "words   (1000 entries)" in text and re.search(r"epochs +3\n", text)
    lines = text.splitlines()[1:]
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)


def test_json_has_all_of_it(plain, capsys):
    main(["inspect", str(plain.path), "--json"])
    out = capsys.readouterr().out
    found = json.loads(out)
    assert out.isascii() and found["about"] == plain.header
    assert found["size_bytes"] == plain.path.stat().st_size
    assert sum(row["size_bytes"] for row in found["tensors"]) + found["header_bytes"] == found["size_bytes"]
    assert found["ratio"] == found["dense_bytes"] / found["size_bytes"]
    assert [row["name"] for row in found["tensors"]] == [entry.names[0] for entry in plain.entries]


def test_what_the_network_is_stands_above(tone_run, tmp_path, capsys):
    weights = load_checkpoint(tone_run.weights("Sparse Iter 1")).tensors
    state = {name: shared(one) for name, one in weights.items() if one.dim() > 1}
    about = {"scores": {"dev": SCORES, "test": SCORES}, "corpus": "tones", "terms": "free [red]\x1b[2J"}
    write_model(tmp_path / "x.dsdz", tone_run, "Sparse Iter 1", state, about=about)
    main(["inspect", str(tmp_path / "x.dsdz")])
    out = capsys.readouterr().out
    for said in (
        r"network +DeepSpeech 1 \(recipe ds1\), a recogniser; use seqdsd transcribe",
        "phase +Sparse Iter 1, 50.0%",
        "test +WER 25.00%",
        "corpus +tones\n",
        r"terms +free \[red\]\\x1b\[2J\n",
        "trained by +python ",
        "versions +seqdsd ",
    ):
        assert re.search(said, out), out
    assert printable_lines(out) == out


def test_one_that_cannot_be_used_is_shown_with_the_reason(plain, tmp_path):
    file = write_compressed(tmp_path / "x.dsdz", plain.state_dict(), {"recipe": "wav2letter"})
    text = shown(file)
    assert re.search(r"cannot be used .*x.dsdz: its header", text) and "first.weight" not in text
    assert cells(text, "dense tensors: 4")[0] == "62,301"


def test_a_network_without_tensors_is_shown(tmp_path):
    assert number(cells(shown(write_compressed(tmp_path / "x.dsdz", {}, {})), "all")[-2]) > 0


def test_damage_is_named(plain, capsys):
    content = bytearray(plain.path.read_bytes())
    content[-1] ^= 1
    plain.path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(plain.path)])
    assert end.value.code == 1
    assert "plain.dsdz: the stream of 'steps' is damaged" in capsys.readouterr().err.replace("\n", " ")


def test_reading_it_again_gives_the_same(plain):
    assert shown(read_compressed(plain.path)) == shown(plain)
