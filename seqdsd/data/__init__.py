"""From manifests to batches: what is read, in which order, and what is refused."""

from seqdsd.data.batch import BadExample, SpeechBatch, SpeechExample, collate
from seqdsd.data.manifest import Manifest, ManifestError, Utterance, read_manifest, write_manifest
from seqdsd.data.sampler import BucketBatchSampler, padding_share
from seqdsd.data.speech import (
    BadDataError,
    Corpus,
    OnBadData,
    SpeechDataset,
    check_transcripts,
    load_batches,
    read_corpus,
)

__all__ = [
    "BadDataError",
    "BadExample",
    "BucketBatchSampler",
    "Corpus",
    "Manifest",
    "ManifestError",
    "OnBadData",
    "SpeechBatch",
    "SpeechDataset",
    "SpeechExample",
    "Utterance",
    "check_transcripts",
    "collate",
    "load_batches",
    "padding_share",
    "read_corpus",
    "read_manifest",
    "write_manifest",
]
