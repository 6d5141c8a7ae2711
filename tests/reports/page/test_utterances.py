"""Alignments of each phase's words, judged by hand, by a walk along both sides, and by the error rate's counts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.kinds import CAPTIONS, CLASSIFICATION, KINDS, SPEECH
from seqdsd.metrics import wer
from seqdsd.metrics.bleu import sentence_bleu
from seqdsd.reports.page.utterances import (
    Item,
    Text,
    as_json,
    caption_marks,
    fitting,
    make_items,
    most_changed,
)
from seqdsd.reports.runs.hypotheses import Hypothesis

RECORDS = Path(__file__).parents[3] / "recipes/an4/records/ds1-dsd-seed0/hyps"


def said(hyp: str, *, ref: str = "one two three", id_: str = "u") -> Hypothesis:
    return Hypothesis(id_, (ref,), hyp)


def one(ref: str, *hyps: str) -> Item:
    (item,) = make_items([[said(hyp, ref=ref)] for hyp in hyps], kind=SPEECH)
    return item


@pytest.mark.parametrize(
    ("ref", "hyp", "ops"),
    [
        ("one two three", "one two three", "==="),
        ("one two three", "one too three", "=S="),
        ("one two three", "one three", "=D="),
        ("one two three", "one two two three", "==I="),
        ("one", "won a", "SI"),
        ("one two", "", "DD"),
        ("", "one two", "II"),
        ("", "", ""),
        ("one two", " one   two\t", "=="),
    ],
)
def test_alignments_by_hand(ref, hyp, ops):
    (text,) = one(ref, hyp).texts
    assert sorted(text.ops) == sorted(ops) and text.score == len(ops) - ops.count("=")
    if ops not in ("SI", "==I="):  # of which another order is as short
        assert text.ops == ops


def sides(ref: str, text: Text) -> tuple[list[str], list[str]]:
    """Walks along the letters as the page does; gives what of both sides it has seen, right words equal."""
    refs, hyps, seen = iter(ref.split()), iter(text.hyp.split()), ([], [])
    for op in text.ops:
        before = next(refs) if op in "=SD" else None
        after = next(hyps) if op in "=SI" else None
        assert (before == after) == (op == "=")
        seen[0].extend([before] if before is not None else [])
        seen[1].extend([after] if after is not None else [])
    return seen


words = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


@given(ref=words, hyps=st.lists(words, min_size=1, max_size=4))
def test_the_letters_lead_along_both_sides(ref, hyps):
    item = one(ref, *hyps)
    for column, hyp in enumerate(hyps):
        text = item.texts[item.said[column]]
        assert text.hyp == hyp and sides(ref, text) == (ref.split(), hyp.split())


def test_real_hypotheses_have_the_errors_that_the_records_count():
    phases = [json.loads(line) for line in (RECORDS.parent / "phases.jsonl").read_text().splitlines()]
    columns = []
    for phase in phases:
        name = phase["name"].lower().replace(" ", "-")
        rows = [json.loads(line) for line in (RECORDS / f"{name}.test.jsonl").read_text().splitlines()]
        columns.append([Hypothesis(row["id"], (row["ref"],), row["hyp"]) for row in rows])
    items = make_items(columns, kind=SPEECH)
    for column, phase in enumerate(phases):
        ops = "".join(item.texts[item.said[column]].ops for item in items)
        counted = {"S": "substitutions", "D": "deletions", "I": "insertions", "=": "hits"}
        assert {letter: ops.count(letter) for letter in counted} == {
            letter: phase["test"][name] for letter, name in counted.items()
        }
    rate = wer([row.refs[0] for row in columns[0]], [row.hyp for row in columns[0]])
    assert sum(item.score(0) for item in items) == rate.errors


def test_equal_texts_are_held_once():
    item = one("one two three", "one", "two", "one ", "one")
    assert [text.hyp for text in item.texts] == ["one", "two"] and item.said == (0, 1, 0, 0)


def test_captions_are_scored_and_marked():
    refs = ("a girl in a pink dress is on a swing", "a child swings")
    hyps = ["a boy is standing on a rock wall", "a girl is on a rock wall", "a girl is on a rock wall"]
    (item,) = make_items([[Hypothesis("x.jpg", refs, hyp)] for hyp in hyps], kind=CAPTIONS)
    assert [text.score for text in item.texts] == [sentence_bleu(refs, hyp) for hyp in hyps[:2]]
    assert caption_marks(item, (0, 1, 2)) == ["========", "=+=-====", "======="]
    assert caption_marks(item, (1, 0)) == ["=======", "=+=+===="]


def test_classes_are_right_or_wrong_as_a_whole():
    (item,) = make_items(
        [[Hypothesis("x", ("ice cream",), hyp)] for hyp in ("ice bear", "ice cream", "ice bear")],
        kind=CLASSIFICATION,
    )
    assert item.texts == (Text("ice bear", "", 1), Text("ice cream", "", 0)) and item.said == (0, 1, 0)
    assert item.change([(0, 1)]) == 1 and item.change([(0, 2)]) == 0


def test_classes_may_differ_in_their_spaces_alone():
    (item,) = make_items(
        [[Hypothesis("x", ("ice  cream",), hyp)] for hyp in ("ice cream", "ice  cream")], kind=CLASSIFICATION
    )
    assert item.refs == ("ice  cream",)
    assert item.texts == (Text("ice cream", "", 1), Text("ice  cream", "", 0))


def test_without_references_there_is_no_score():
    for kind in KINDS:
        (item,) = make_items([[Hypothesis("x", (), "a b")]], kind=kind)
        assert item.texts == (Text("a b", "", None),) and item.change([(0,)]) == 0


def test_columns_of_other_items_are_refused():
    with pytest.raises(ValueError, match="column 1 and the first differ in 'v'"):
        make_items([[said("one")], [said("one"), said("two", id_="v")]], kind=SPEECH)
    assert make_items([], kind=SPEECH) == []


def test_most_changed_first_whichever_way():
    hyps = {  # errors: first phase, last phase of run one; of run two
        "same": ("one", "one", "one", "one"),
        "worse": ("one two three", "one two three", "one two three", ""),
        "better": ("one", "one two", "one", "one"),
        "much": ("one", "one", "one", "two"),
    }
    columns = [[said(row[column], id_=id_) for id_, row in hyps.items()] for column in range(4)]
    ranked = most_changed(make_items(columns, kind=SPEECH), [(0, 1), (2, 3)])
    assert [item.id for item in ranked] == ["worse", "better", "much", "same"]
    assert [item.change([(0, 1), (2, 3)]) for item in ranked] == [3, 1, 0, 0]


def test_as_many_items_as_fit():
    items = [as_json(item) for item in (one("one", "won"), one("two", "zwei"), one("ö", "ö"))]
    sizes = [len(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()) + 1 for item in items]
    assert [fitting(items, sum(sizes[:kept])) for kept in range(4)] == [(n, sum(sizes[:n])) for n in range(4)]
    assert [fitting(items, sum(sizes[:kept]) - 1)[0] for kept in (1, 2, 3)] == [0, 1, 2]
    assert items[0] == {"id": "u", "refs": ("one",), "texts": [["won", "S", 1]], "said": (0,)}
