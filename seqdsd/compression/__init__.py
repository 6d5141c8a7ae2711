"""Deep Compression for any ``nn.Module``: weights that share few values, their training, and one small file of them.

``share_weights`` makes a ``SharedTensor`` of a pruned weight, ``CodebookTraining`` trains its values,
``write_compressed`` writes a network that ``read_compressed`` gives back bit for bit, and ``file_sizes`` says what its
bytes go into. docs/format.md describes the file. Nothing here knows the engine, a task, or who chose the masks.
"""

from seqdsd.compression.coding import CodedTensor, Coding, decode_shared, encode_shared
from seqdsd.compression.container import (
    CompressedFile,
    CompressedFileError,
    read_compressed,
    write_compressed,
)
from seqdsd.compression.header import TensorEntry
from seqdsd.compression.sharing import SharedTensor, half_where_safe, share_weights
from seqdsd.compression.sizes import FileSizes, TensorSize, file_sizes
from seqdsd.compression.streams import StreamError
from seqdsd.compression.tuning import CodebookTraining, load_shared_

__all__ = [
    "CodebookTraining",
    "CodedTensor",
    "Coding",
    "CompressedFile",
    "CompressedFileError",
    "FileSizes",
    "SharedTensor",
    "StreamError",
    "TensorEntry",
    "TensorSize",
    "decode_shared",
    "encode_shared",
    "file_sizes",
    "half_where_safe",
    "load_shared_",
    "read_compressed",
    "share_weights",
    "write_compressed",
]
