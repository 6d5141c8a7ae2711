"""Which seeds a comparison was asked for and when: by hand."""

import pytest

from seqdsd.records import RunFolderError
from seqdsd.records.asked_seeds import (
    AskedSeeds,
    looks_before,
    newly_asked,
    note_asked_seeds,
    read_asked_seeds,
)


def test_only_new_seeds_are_noted(tmp_path):
    for seeds, with_results in (([0, 1], []), ([1, 0], [0]), ([0, 1, 5, 4], [1, 0]), ([4], [0])):
        if asked := newly_asked(tmp_path, seeds, with_results=with_results):
            note_asked_seeds(tmp_path, asked)
    assert read_asked_seeds(tmp_path) == (AskedSeeds((0, 1), ()), AskedSeeds((4, 5), (0, 1)))


def test_a_folder_from_before_it_was_kept_has_the_seeds_of_its_results(tmp_path):
    assert read_asked_seeds(tmp_path) == ()
    assert newly_asked(tmp_path, [0, 1], with_results=[0, 1]) is None
    assert newly_asked(tmp_path, [0, 1, 2], with_results=[0, 1]) == AskedSeeds((2,), (0, 1))


def test_a_look_is_at_two_seeds_or_more_of_the_comparison():
    lines = [AskedSeeds((0, 1), ()), AskedSeeds((2,), (0,)), AskedSeeds((3,), (0, 1, 2))]
    assert looks_before(lines, range(4)) == (lines[2],)
    assert looks_before(lines, [0, 1, 2]) == () == looks_before(lines, [0, 3])


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "seeds.jsonl").write_text('{"seeds": [1], "with_results": []}\n{"seeds": "1"}\n')
    with pytest.raises(RunFolderError, match=r"seeds.jsonl:2: .*; bring the file back"):
        read_asked_seeds(tmp_path)
