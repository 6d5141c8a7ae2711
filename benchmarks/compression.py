"""Sizes and speed of compressed tensors: ours by both codings, zstd and gzip, of random heavy-tailed weights.

    python -m benchmarks.compression
    python -m benchmarks.compression --file model.dsdz     # of the tensors of a file
    python -m benchmarks.compression --file model.dsdz --table --nncodec ENV/bin/python    # beside others, in Markdown
    python -m benchmarks.compression --file a.dsdz b.dsdz --table                          # a column each

Sizes are times smaller than float32, of one tensor with its codebook, without a header. zstd (level 19) and gzip (9)
are given the masked weights, or their codes at a byte each. Speed is millions of weights a second from the stream to
dense float32, on one thread, in seconds of the processor; beside it stands the time over that of zstd's decoding of the
codes and the same look-up, in turns. The last line is the most memory that reading a whole file took, over that of its
dense tensors.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
import zstandard
from rich.console import Console
from rich.table import Table

from benchmarks.compression_rivals import markdown, rivals, side_by_side
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.compression import (
    SharedTensor,
    decode_shared,
    encode_shared,
    read_compressed,
    share_weights,
    write_compressed,
)


@dataclass(frozen=True)
class Settings:
    """What is compressed."""

    file: tuple[Path, ...] = ()
    """A .dsdz file (for a table, or several), whose shared tensors are measured; without it random ones."""
    table: bool = False
    """Print one Markdown table of the whole file beside what others make of its weights (no timings)."""
    nncodec: Path | None = None
    """For the table: interpreter of an environment with nncodec, which is compiled as it is installed and wants another
    NumPy: pip install --no-deps nncodec 'numpy<2'."""
    weights: int = 20_000_000
    """Of each random tensor."""
    densities: tuple[float, ...] = (0.02, 0.08, 0.2, 0.5, 1.0)
    """Shares of kept weights."""
    bits: int = 6
    """Of a random tensor's codes."""
    rounds: int = 3
    """Timings of each way, in turns."""

    def __post_init__(self) -> None:
        if self.table and not self.file:
            raise ValueError("table: of a file; name it by --file")
        if len(self.file) > 1 and not self.table:
            raise ValueError("file: several are for --table")


def random_tensor(weights: int, density: float, bits: int) -> SharedTensor:
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_t(5, (1000, weights // 1000)).astype(np.float32))
    kept = max(1, round(density * weight.numel()))
    threshold = np.partition(weight.abs().flatten().numpy(), weight.numel() - kept)[weight.numel() - kept]
    return share_weights(weight, weight.abs() >= float(threshold), bits=bits)


def by_zstd(codes: bytes, shared: SharedTensor) -> torch.Tensor:
    plain = np.frombuffer(zstandard.ZstdDecompressor().decompress(codes), np.uint8).reshape(shared.shape)
    return SharedTensor(shared.codebook, torch.from_numpy(plain.copy())).dense()


def processor_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def row_of(name: str, shared: SharedTensor, rounds: int) -> list[str]:
    dense, codes = shared.dense(), shared.codes.numpy().tobytes()
    plain = dense.numpy().tobytes()
    coded = {"ans": encode_shared(shared, "ans"), "huffman": encode_shared(shared, "huffman")}
    zstd = zstandard.ZstdCompressor(level=19)
    codebook_bytes, of_codes = 4 * len(shared.codebook), zstd.compress(codes)
    sizes = [
        *(len(one.data) for one in coded.values()),
        len(zstd.compress(plain)),
        len(gzip.compress(plain)),
        len(of_codes) + codebook_bytes,
        len(gzip.compress(codes)) + codebook_bytes,
    ]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        way: partial(lambda one: decode_shared(one.data, shared.shape, one.coding).dense(), one)
        for way, one in coded.items()
    }
    ways["zstd"] = partial(by_zstd, of_codes, shared)
    for decode in ways.values():
        assert torch.equal(decode(), dense)
    seconds = seconds_in_turns(ways, rounds=rounds)
    speeds = [shared.codes.numel() / 1e6 / processor_seconds(ways[way]) for way in coded]
    ratios = [str(Ratio.of(seconds[way], seconds["zstd"])) for way in coded]
    return [
        name,
        f"{float(shared.mask.float().mean()):.1%}",
        *(f"{len(plain) / size:.1f}" for size in sizes),
        *(f"{speed:.0f}" for speed in speeds),
        *ratios,
    ]


MEASURED = """
import re, sys
from pathlib import Path
from seqdsd.compression import read_compressed

def peak_bytes():  # not ru_maxrss, which begins with what the parent process had
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

file = read_compressed(sys.argv[1])
file.tensor(file.names[0])  # a small one: what any decoding needs once
before = peak_bytes()
state = file.state_dict()
print((peak_bytes() - before) / sum(tensor.nbytes for tensor in state.values()))
"""


def memory_ratio(weights: int) -> float:
    """The most memory that a process needed to read a file of four tensors and a small one, over their dense bytes."""
    one = random_tensor(weights, 0.1, 6)
    shared = {f"{index}": SharedTensor(one.codebook, one.codes) for index in range(4)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dsdz"
        write_compressed(path, {"first": random_tensor(1000, 0.5, 4), **shared}, {})
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
        )
    return float(done.stdout)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    torch.set_num_threads(1)
    if settings.table:
        tables = {path.stem: list(rivals(read_compressed(path), settings.nncodec)) for path in settings.file}
        if len(tables) < len(settings.file):
            sys.exit("error: two files of the same name, which would be one column; rename one")
        print(side_by_side(tables) if len(tables) > 1 else markdown(*tables.values()))
        return
    table = Table(title="Times smaller than float32; millions of weights a second; time over zstd's")
    sizes = ("ans", "huffman", "zstd", "gzip", "zstd codes", "gzip codes")
    for column in ("", "density", *sizes, "ans M/s", "huffman M/s", "ans / zstd", "huffman / zstd"):
        table.add_column(column, justify="right")
    if settings.file:
        file = read_compressed(settings.file[0])
        for entry in file.entries:
            if shared := file.shared(entry.names[0]):
                table.add_row(*row_of(entry.names[0], shared, settings.rounds))
    else:
        for density in settings.densities:
            shared = random_tensor(settings.weights, density, settings.bits)
            table.add_row(*row_of(f"{settings.weights:,}", shared, settings.rounds))
    Console().print(table)
    ratio = memory_ratio(settings.weights)
    print(
        f"memory to read four tensors of {settings.weights:,} weights: {ratio:.2f} of the dense ones (wanted: 1.25)"
    )


if __name__ == "__main__":
    main()
