"""The run folder: what is written where, and read back. Knows files, JSON and shapes, neither models nor metrics.

::

    config.toml            the resolved settings, with a [provenance] table: command, seed, versions, commit, and the
                           device on which the run was begun
    phases.jsonl           one record a phase
    hyps/PHASE.SPLIT.jsonl what was recognised: id, ref, hyp, speaker where known; or captioned: id, refs, hyp
    skipped.jsonl          bad data that was left out, if any
    tokenizer/ or vocabulary.json  what the network spells with
    images.jsonl           where the images are that were captioned: id, path
    audio.jsonl            where the recordings are that were recognised: id, path
    plan.jsonl             what the sparse phases prune, by which rule: a parameter a line
    decoding.toml          how to weigh a language model, if seqdsd tune-decoding was run
    weights.jsonl          the pruned layers' weights at the five moments of each round
    progress.json          how far the run is, for those who watch it from another process
    checkpoints/           written by seqdsd.engine.checkpoint
    tb/                    TensorBoard
    captions.html          written by seqdsd.reports.captions.page when asked for

``folder`` has the paths, ``reading`` the one reader of all records, which holds them against ``shapes``; ``phases``
adds what one record says about another. Records are handed on as plain dicts.
"""

from seqdsd.atomic import replacing, write_atomically
from seqdsd.records import shapes
from seqdsd.records.folder import RunFolder, slug
from seqdsd.records.origin import FORMAT, checked_provenance, provenance
from seqdsd.records.phases import check_phases, is_test_split
from seqdsd.records.reading import RunFolderError, checked, read_json_lines
from seqdsd.records.writing import json_values, write_json_lines

__all__ = [
    "FORMAT",
    "RunFolder",
    "RunFolderError",
    "check_phases",
    "checked",
    "checked_provenance",
    "is_test_split",
    "json_values",
    "provenance",
    "read_json_lines",
    "shapes",
    "slug",
    "replacing",
    "write_atomically",
    "write_json_lines",
]
