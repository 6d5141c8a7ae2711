"""Begin a run with phases that another run has trained: the arms of a comparison share them, each trained once.

The run goes on from them bit for bit as if it had trained them itself (on the same machine with as many threads).
Whether the two runs' other settings agree is for the caller to check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqdsd.engine.checkpoint import load_checkpoint, load_latest
from seqdsd.engine.run_state import RunState, read_saved
from seqdsd.records import RunFolder, read_json_lines, shapes, write_atomically
from seqdsd.sparsity import DSD, MaskSet, Phase, RestoredStart, Schedule


def take_over(
    parent: RunFolder,
    folder: RunFolder,
    *,
    dsd: DSD,
    fingerprint: str,
    copies_files: bool = True,
    restored_start: RestoredStart = "zero",
) -> RunState:
    """Take the leading phases of ``dsd.schedule`` that ``parent`` has finished: records, hypotheses and weights.

    Args:
        parent: Of the other run, which may still be training later phases.
        folder: Of the run that begins; the files of the phases are copied into it.
        dsd: Of the run that begins: is made to stand after these phases, its model with the weights that the last of
            them handed on.
        fingerprint: Of the training data (see ``Task``).
        copies_files: Whether the phases' files are copied: of several processes one does.
        restored_start: What restored weights begin with in the run that begins: a redense phase with another start is
            no phase of it.

    Raises:
        ValueError: If the runs have no phase in common, or were trained on other data or another network.
        CheckpointError, RunFolderError: If the parent's files are missing or damaged.
    """
    records = _common_phases(parent, dsd.schedule, restored_start)
    latest = load_latest(parent.checkpoints, read_saved)
    if latest is None:
        raise ValueError(f"{parent.path}: its checkpoints are missing; train this run from its start")
    if latest.state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{parent.path}: its phases were trained on other data; train this run from its start"
        )
    last = records[-1]
    try:
        dsd.model.load_state_dict(load_checkpoint(parent.weights(last["name"])).tensors)
    except RuntimeError as error:
        raise ValueError(f"{parent.path}: its weights are another network's: {error}") from error
    for record in records if copies_files else ():
        _copy_files(parent, folder, record["name"])
    masks = None
    following = next(iter(dsd.schedule.phases[len(records) :]), None)
    if last["kind"] == "sparse" and following is not None and following.kind == "redense":
        masks = MaskSet.from_state_dict(dsd.model, load_checkpoint(parent.mask(last["name"])).tensors)
    dsd.stand_at(len(records), masks=masks)
    return RunState(records=records, weight_rows=_weight_rows(parent, records))


def _common_phases(
    parent: RunFolder, schedule: Schedule, restored_start: RestoredStart
) -> list[dict[str, Any]]:
    common = []
    for record, phase in zip(parent.read_phases(), schedule, strict=False):
        # Folders from before there was a choice do not say it.
        began_otherwise = (
            record["kind"] == "redense" and record.get("restored_start", "zero") != restored_start
        )
        if not _is_phase(record, phase) or began_otherwise:
            break
        common.append({"taken_over_from": str(parent.path), **record})  # the run that trained it stays named
    if not common:
        raise ValueError(
            f"{parent.path}: it has not finished this run's first phase ({schedule.phases[0]}), so there is nothing to "
            "take over"
        )
    return common


def _is_phase(record: Mapping[str, Any], phase: Phase) -> bool:
    planned = (phase.name, phase.kind, phase.epochs, phase.learning_rate, phase.sparsity)
    return planned == tuple(
        record.get(key) for key in ("name", "kind", "epochs_planned", "learning_rate", "sparsity")
    )


def _copy_files(parent: RunFolder, folder: RunFolder, phase_name: str) -> None:
    files = [parent.weights(phase_name), parent.mask(phase_name), *parent.all_hypotheses(phase_name)]
    for path in files:
        if path.is_file():
            copy = folder.path / path.relative_to(parent.path)
            write_atomically(copy, path.read_bytes())


def _weight_rows(parent: RunFolder, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not parent.weight_statistics.is_file():
        return []
    names = {record["name"] for record in records}
    rows = read_json_lines(parent.weight_statistics, shapes.LayersAtMoment)
    return [row for row in rows if row.get("phase") in names]
