"""From manifests to batches: what is read, in which order, and what is refused."""

from seqdsd.data.batch import SILENT_PEAK, BadExample, SpeechBatch, SpeechExample, collate
from seqdsd.data.caption_batches import (
    IGNORE,
    CaptionBatch,
    CaptionBatchSampler,
    EncodedCaptions,
    encode_captions,
    make_batch,
)
from seqdsd.data.caption_files import read_captions
from seqdsd.data.captions import (
    CaptionCorpus,
    CaptionDataError,
    CaptionedImage,
    check_images_exist,
    check_known_words,
)
from seqdsd.data.manifest import Manifest, ManifestError, Utterance, read_manifest, write_manifest
from seqdsd.data.sampler import BucketBatchSampler, padding_share
from seqdsd.data.speech import (
    LONGEST_ALONE_SECONDS,
    BadDataError,
    Corpus,
    OnBadData,
    SpeechDataset,
    check_transcripts,
    load_batches,
    read_corpus,
)
from seqdsd.data.splits import find_splits, is_split_folder, read_split

__all__ = [
    "IGNORE",
    "LONGEST_ALONE_SECONDS",
    "SILENT_PEAK",
    "BadDataError",
    "BadExample",
    "BucketBatchSampler",
    "CaptionBatch",
    "CaptionBatchSampler",
    "CaptionCorpus",
    "CaptionDataError",
    "CaptionedImage",
    "Corpus",
    "EncodedCaptions",
    "Manifest",
    "ManifestError",
    "OnBadData",
    "SpeechBatch",
    "SpeechDataset",
    "SpeechExample",
    "Utterance",
    "check_images_exist",
    "check_known_words",
    "check_transcripts",
    "collate",
    "encode_captions",
    "find_splits",
    "is_split_folder",
    "load_batches",
    "make_batch",
    "padding_share",
    "read_captions",
    "read_corpus",
    "read_manifest",
    "read_split",
    "write_manifest",
]
