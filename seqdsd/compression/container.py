"""The .dsdz file: a header in JSON and one stream a tensor, all under checksums; docs/format.md describes each byte.

Writing loses nothing: what is read has the bits of what was given. What a tensor may lose is decided before, by
``share_weights`` and ``half_where_safe``. Nothing is unpickled, and no memory is taken for what the header only claims.
Left out: what the header's own part means, which is the callers' business.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqdsd.atomic import replacing
from seqdsd.compression.coding import decode_shared, encode_shared
from seqdsd.compression.header import (
    AGAIN,
    DTYPES,
    MAX_DENSE_BYTES,
    Head,
    HeadError,
    TensorEntry,
    digest,
    head_bytes,
    read_head,
)
from seqdsd.compression.sharing import SharedTensor
from seqdsd.compression.streams import StreamError

_NAMES_OF_DTYPES = {dtype.torch: name for name, dtype in DTYPES.items()}
_NO_LIMIT = 2**63


class CompressedFileError(ValueError):
    """A file that cannot be used; the message names it, what is wrong and the remedy."""


class CompressedFile:
    """A .dsdz file whose header has been read and checked; each tensor is, when it is asked for.

    The file is not held open. One that has changed since is refused.

    Attributes:
        path: Of the file.
        header: What the writer put in.
        entries: Its tensors, in the file's order.
        header_bytes: All that is not a stream.
        size_bytes: Of the file.
    """

    def __init__(self, path: Path, head: Head, size_bytes: int) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.header, self.entries, self.header_bytes = head.about, head.entries, head.size_bytes
        self._by_name = {name: entry for entry in self.entries for name in entry.names}

    @property
    def names(self) -> list[str]:
        """Of all tensors, each of a tied one's."""
        return list(self._by_name)

    def tensor(self, name: str) -> Tensor:
        """Decode a tensor, on the CPU.

        Raises:
            KeyError: If there is none of the name.
            CompressedFileError: If its stream is damaged, or the file is another by now.
        """
        entry = self._by_name[name]
        with _naming(self.path), self.path.open("rb") as file:
            return self._dense(entry, file)

    def shared(self, name: str) -> SharedTensor | None:
        """A tensor's codebook and codes; None of a dense one.

        Raises:
            KeyError: If there is none of the name.
            CompressedFileError: See ``tensor``.
        """
        entry = self._by_name[name]
        if entry.coding == "raw":
            return None
        with _naming(self.path), self.path.open("rb") as file:
            return self._shared(entry, file)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, decoded one after the other; tied names have one tensor.

        Raises:
            CompressedFileError: See ``tensor``.
        """
        state: dict[str, Tensor] = {}
        with _naming(self.path), self.path.open("rb") as file:
            for entry in self.entries:
                state.update(dict.fromkeys(entry.names, self._dense(entry, file)))
        return state

    def _dense(self, entry: TensorEntry, file: io.BufferedIOBase) -> Tensor:
        if entry.coding != "raw":
            return self._shared(entry, file).dense()
        with _naming(self.path, entry):
            return _raw_tensor(entry, _stream(entry, file))

    def _shared(self, entry: TensorEntry, file: io.BufferedIOBase) -> SharedTensor:
        assert entry.coding != "raw"
        with _naming(self.path, entry):
            return decode_shared(_stream(entry, file), entry.shape, entry.coding)


def write_compressed(
    path: Path | str, state: Mapping[str, Tensor | SharedTensor], header: Mapping[str, Any]
) -> CompressedFile:
    """Write a network into one file, whole or not at all, and read its header again.

    Args:
        path: Of the file; by custom it ends in ``.dsdz``. Its folder is made.
        state: Tensors by name, shared or dense. Tied ones (one ``SharedTensor``, or tensors in one memory) are written
            once. Dense float32 that float16 holds exactly takes two bytes a number.
        header: What JSON can hold: network, settings, vocabulary, scores, provenance, licence …

    Raises:
        TypeError: If a tensor has a type that the format lacks, or is sparse or without numbers, a name is no text, or
            the header is not JSON.
        ValueError: If the header has NaN or infinity or is larger than 1 MiB, or no reader would take the file since
            next to nothing is in it (``read_compressed``).
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from seqdsd.compression import read_compressed, share_weights, write_compressed
        >>> weight = torch.linspace(-1, 1, 10_000).view(100, 100)
        >>> shared = share_weights(weight, weight.abs() > 0.8, bits=4)
        >>> path = tempfile.mkdtemp() + "/model.dsdz"
        >>> file = write_compressed(path, {"weight": shared, "bias": torch.ones(100)}, {"network": "one layer"})
        >>> file.size_bytes < 40_400 / 20
        True
        >>> torch.equal(read_compressed(path).tensor("weight"), shared.dense())
        True
    """
    path = Path(path)
    for name, one in state.items():
        _check_writable(name, one)
    rows, streams = [], []
    for names, tensor in _distinct(state):
        row, data = _encoded(names, tensor)
        rows.append({"names": names, **row, "bytes": len(data), "sha256": digest(data).hex()})
        streams.append(data)
    head = head_bytes(header, rows)
    size = len(head) + sum(map(len, streams))
    with _naming(path):
        as_read = read_head(io.BytesIO(head), size, max_dense_bytes=_NO_LIMIT)
    with replacing(path) as file:
        file.writelines([head, *streams])
    return CompressedFile(path, as_read, size)


def read_compressed(path: Path | str, *, max_dense_bytes: int = MAX_DENSE_BYTES) -> CompressedFile:
    """Read and check the header of a file; its tensors are decoded when they are asked for.

    Args:
        path: Of the file.
        max_dense_bytes: What the decoded network may take.

    Raises:
        CompressedFileError: If there is no such file, it is none of this format, of another version, damaged, cut, or
            its tensors would take more than ``max_dense_bytes`` or 2^14 times its size.
    """
    path = Path(path)
    with _naming(path), path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return CompressedFile(path, read_head(file, size, max_dense_bytes=max_dense_bytes), size)


@contextmanager
def _naming(path: Path, entry: TensorEntry | None = None) -> Iterator[None]:
    """Errors of the file, or of the stream of one of its tensors, with the file's name and the remedy."""
    try:
        yield
    except CompressedFileError:
        raise
    except IsADirectoryError as error:
        raise CompressedFileError(
            f"{path}: a folder; name a .dsdz file (seqdsd compress makes one)"
        ) from error
    except OSError as error:
        raise CompressedFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except HeadError as error:
        raise CompressedFileError(f"{path}: {error}") from error
    except ValueError as error:
        if entry is None:
            raise
        raise CompressedFileError(
            f"{path}: the stream of {entry.names[0]!r} is damaged ({error}){AGAIN}"
        ) from error


def _stream(entry: TensorEntry, file: io.BufferedIOBase) -> bytes:
    file.seek(entry.start)
    data = file.read(entry.size_bytes)
    if digest(data).hex() != entry.digest:
        raise StreamError("its checksum does not fit")
    return data


def _raw_tensor(entry: TensorEntry, data: bytes) -> Tensor:
    stored = DTYPES[entry.stored]
    numbers = np.frombuffer(data, stored.numpy)
    if entry.stored == "bool" and (numbers.view(np.uint8) > 1).any():
        raise StreamError("it has truth values other than 0 and 1")
    # A copy, which may be written to, in the byte order of this machine.
    native = torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("=")))
    return native.view(stored.torch).to(DTYPES[entry.dtype].torch).view(entry.shape)


def _distinct(
    state: Mapping[str, Tensor | SharedTensor],
) -> Iterator[tuple[list[str], Tensor | SharedTensor]]:
    """Each tensor once, with all its names."""
    names: dict[Any, list[str]] = {}
    tensors: dict[Any, Tensor | SharedTensor] = {}
    for name, one in state.items():
        key: Any = id(one)
        if isinstance(one, Tensor) and one.numel():  # an empty one lies nowhere
            key = (one.data_ptr(), one.device, one.dtype, one.shape, one.stride())
        names.setdefault(key, []).append(name)
        tensors[key] = one
    for key, one in tensors.items():
        yield names[key], one


def _check_writable(name: Any, one: Any) -> None:
    """See that it is a name, and a tensor whose numbers lie one beside the other.

    Raises:
        TypeError: If not; with the name.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r}: the name of a tensor is a text, as in a state_dict")
    if isinstance(one, SharedTensor):
        return
    if not isinstance(one, Tensor):
        raise TypeError(f"{name}: neither a tensor nor a shared one but a {type(one).__name__}; leave it out")
    if one.layout is not torch.strided or one.is_meta:
        kind = "has no numbers (meta)" if one.is_meta else f"is of {one.layout}; give its to_dense()"
        raise TypeError(f"{name}: cannot be written, since it {kind}")


def _encoded(names: Sequence[str], tensor: Tensor | SharedTensor) -> tuple[dict[str, Any], bytes]:
    """What the header says of a tensor, but for its names and its stream's size and checksum; and the stream."""
    if isinstance(tensor, SharedTensor):
        coded = encode_shared(tensor)
        return {"shape": list(tensor.shape), "coding": coded.coding}, coded.data
    if tensor.dtype not in _NAMES_OF_DTYPES:
        raise TypeError(f"{names[0]}: {tensor.dtype} cannot be written; known are {', '.join(DTYPES)}")
    dtype = stored = _NAMES_OF_DTYPES[tensor.dtype]
    tensor = tensor.detach().cpu().contiguous()
    if dtype == "float32":
        halves = tensor.half()
        if torch.equal(halves.float(), tensor):  # -0.0 stays what it is, and NaN is not equal
            tensor, stored = halves, "float16"
    if stored == "bfloat16":
        tensor = tensor.view(torch.int16)
    data = tensor.numpy().astype(DTYPES[stored].numpy).tobytes()
    return {"shape": list(tensor.shape), "coding": "raw", "dtype": dtype, "stored": stored}, data
