"""Every table in recipes/*/RESULTS.md is what the records beside it say, and they what their hypotheses give."""

import json
import math
import re
import runpy
import shutil
from functools import cache
from pathlib import Path

import pytest

from benchmarks import compressed_runs, out_of_the_box
from seqdsd.compression import read_compressed
from seqdsd.data import read_captions
from seqdsd.inference.model_files import SavedFile
from seqdsd.inference.ready import ready_files
from seqdsd.kinds import KIND_OF_RECIPE
from seqdsd.metrics import bleu, cider_d, mcnemar, rouge_l, wer
from seqdsd.records import RunFolder, slug, write_json_lines
from seqdsd.reports import phase_markdown
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.comparison.contrasts import headlines
from seqdsd.reports.numbers import to_markdown
from seqdsd.reports.retraining.study import retraining_studies
from seqdsd.reports.runs.reading import read_runs
from seqdsd.sparsity import Phase

ROOT = Path(__file__).parents[1]
READY = ready_files()
RECIPES = ROOT / "recipes"
SHARED = ROOT.parent / "shared" / "data"
RUNS = sorted(path.parent for path in RECIPES.glob("*/records/**/phases.jsonl"))
RECORDS = [run for run in RUNS if run.parent.name == "records"]
COMPARISONS = sorted(RECIPES.glob("*/records/compare-*"))
DECODED = sorted(RECIPES.glob("*/records/decoded/*.jsonl"))
SHEETS = sorted(RECIPES.glob("*/RESULTS.md"))
STUDIES = sorted(RECIPES.glob("*/records/retrain-*.tar.gz"))
DOES_IT_PAY = runpy.run_path(str(ROOT / "docs" / "does_it_pay.py"))


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: f"{folder.parents[1].name}/{folder.name}")
def test_table_is_generated_from_the_records(folder):
    results = (folder.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert phase_markdown(RunFolder(folder).read_phases()) in results


def test_table_of_rivals_is_what_their_records_say():
    folder = RECIPES / "out_of_the_box"
    records = [out_of_the_box.read(path) for path in sorted(folder.glob("records/*.json"))]
    assert records
    assert out_of_the_box.table(records) in (folder / "RESULTS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", sorted(RECIPES.glob("*/records/compressed-*")), ids=lambda path: path.name)
def test_table_of_what_files_lose_is_what_their_records_say(folder):
    records = [compressed_runs.read(path) for path in sorted(folder.glob("*.json"))]
    assert records
    assert compressed_runs.table(records) in (folder.parents[1] / "RESULTS.md").read_text(encoding="utf-8")


KEPT = sorted(RECIPES.glob("*/records/compressed-*/*.dsdz"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_files_that_are_kept_are_what_their_records_say(path):
    record, file = compressed_runs.read(path.with_suffix(".json")), read_compressed(path)
    assert path.stat().st_size == file.size_bytes == record.size_bytes
    tensors = file.state_dict().values()
    assert sum(one.nbytes for one in tensors) == record.dense_bytes >= 20 * record.size_bytes
    about, metric = SavedFile.read(path).about, record.metric
    for split, score in record.after.items():
        assert about["scores"][split][metric.key] == score


@pytest.mark.parametrize("page,names", [("an4", 1), ("flickr8k", 1), ("mnist", 2)])
def test_rows_of_files_in_the_package_are_what_the_files_say(page, names):
    lines = (RECIPES / page / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    rows = {name: line for line in lines for name in READY if f"(`{name}` of the package)" in line}
    assert len(rows) == names
    for name, line in rows.items():
        saved = SavedFile.read(READY[name])
        metric = KIND_OF_RECIPE[saved.about["recipe"]].primary
        file = read_compressed(READY[name])
        dense = sum(entry.dense_bytes for entry in file.entries)
        score = metric.of(saved.about["scores"], "test")
        digits = 2 if metric.key == "bleu4" else metric.decimals
        _, _, size, ratio, *_, last, _ = (cell.strip() for cell in line.split("|"))
        assert size == f"{READY[name].stat().st_size:,} bytes" and ratio == f"{dense / file.size_bytes:.1f}"
        assert last.removesuffix(" %") == f"{metric.scale * score:.{digits}f}"


def scores(rows: list[dict]) -> dict[str, float]:
    """The scores that hypotheses give: of speech where a row has one ref, of captions where it has refs."""
    hyps = [row["hyp"] for row in rows]
    if "ref" in rows[0]:
        return {"wer": wer([row["ref"] for row in rows], hyps).rate}
    refs_per_item = [row["refs"] for row in rows]
    standard = bleu(refs_per_item, hyps)
    neuraltalk = standard.without_brevity_penalty()
    return {
        **{f"bleu{n}": getattr(standard, f"bleu{n}") for n in (1, 2, 3, 4)},
        **{f"neuraltalk_bleu{n}": getattr(neuraltalk, f"bleu{n}") for n in (1, 2, 3, 4)},
        "brevity_penalty": standard.brevity_penalty,
        "cider_d": cider_d(refs_per_item, hyps).score,
        "rouge_l": rouge_l(refs_per_item, hyps).score,
    }


def with_refs(rows: list[dict], corpus: str) -> list[dict]:
    """Rows as they are, or, where the corpus' own captions may not be copied here, with those of the corpus."""
    if "ref" in rows[0] or "refs" in rows[0]:
        return rows
    path = SHARED / corpus / f"dataset_{corpus}.json.gz"
    if not path.is_file():
        pytest.skip(f"{corpus} is not here, and its references are not in the records")
    return [{**row, "refs": refs_of(path)[row["id"]]} for row in rows]


@cache
def refs_of(path: Path) -> dict[str, list[str]]:
    """Each image's captions; a corpus is read once, which takes seconds."""
    return {image.id: [" ".join(words) for words in image.captions] for image in read_captions(path).images}


def check_wrong_images(run: RunFolder, wrong: Path) -> None:
    """Of classifiers what was kept are the images that the last phase took for something else."""
    rows, test = read_rows(wrong), run.read_phases()[-1]["test"]
    assert all(row["hyp"] == row["top5"][0] != row["ref"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows) == test["top1_errors"]
    assert sum(row["ref"] not in row["top5"] for row in rows) == test["top5_errors"]
    assert test["top1_error"] == test["top1_errors"] / test["images"]


def test_mcnemars_test_of_cifar10_is_that_of_the_wrong_images():
    before, after = (
        {row["id"]: row for row in read_rows(RECIPES / "cifar10" / "records" / name / "wrong.jsonl")}
        for name in ("resnet8-dsd", "resnet8-llr")
    )
    rows = {**before, **after}  # images that both have right say nothing
    refs = [row["ref"] for row in rows.values()]
    found = mcnemar(
        refs,
        *([one.get(id_, {"hyp": row["ref"]})["hyp"] for id_, row in rows.items()] for one in (before, after)),
    )
    said = f"({found.only_after} and {found.only_before} that the other has right; "
    said += f"McNemar's exact test: p = {found.p_value:.3f}"
    assert said in (RECIPES / "cifar10" / "RESULTS.md").read_text(encoding="utf-8")


def check_hypotheses(run: RunFolder, corpus: str) -> None:
    """Of every phase whose hypotheses were kept; of comparisons' runs those of the last were."""
    if (wrong := run.path / "wrong.jsonl").is_file():
        check_wrong_images(run, wrong)
        return
    for record in run.read_phases():
        path = run.hypotheses(record["name"], "test")
        if path.is_file():
            again = scores(with_refs(read_rows(path), corpus))
            recorded = {name: record["test"][name] for name in again}
            assert recorded == pytest.approx(again, rel=0, abs=1e-9), slug(record["name"])
    assert path.is_file()


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: str(folder.relative_to(RECIPES)))
def test_hypotheses_give_the_recorded_scores(folder):
    check_hypotheses(RunFolder(folder), folder.relative_to(RECIPES).parts[0])


@pytest.mark.parametrize("path", DECODED, ids=lambda path: str(path.relative_to(RECIPES)))
def test_scores_by_other_decoding_are_those_of_their_hypotheses(path):
    """One file a way to decode, made by ``seqdsd evaluate --hyps``."""
    rows = read_rows(path)
    found = wer([row["ref"] for row in rows], [row["hyp"] for row in rows])
    errors = found.substitutions + found.deletions + found.insertions
    results = (path.parents[2] / "RESULTS.md").read_text(encoding="utf-8")
    assert f"{100 * found.rate:.2f} | {errors} of {found.ref_length} | [{path.name}]" in results


@pytest.fixture(scope="module", params=COMPARISONS, ids=lambda folder: str(folder.relative_to(RECIPES)))
def comparison(request, tmp_path_factory):
    """A kept comparison: the sheet of results it belongs to, and its runs with all references."""
    folder = request.param
    whole = tmp_path_factory.mktemp("records") / folder.name
    shutil.copytree(folder, whole)
    for path in whole.glob("**/hyps/*.jsonl"):
        write_json_lines(path, with_refs(read_rows(path), folder.parents[1].name))
    runs = read_runs([whole])
    assert not runs.refused
    return folder.parents[1] / "RESULTS.md", runs


def test_comparison_is_generated_from_the_records(comparison):
    results, runs = comparison
    text = results.read_text(encoding="utf-8")
    written = to_markdown(runs, compare_runs(runs.runs))
    assert written.count("|") > 100
    assert written in text


def test_readme_shows_what_the_comparisons_say():
    """The table is what ``docs/does_it_pay.py`` makes of the records; its numbers, what their own sentences say."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = DOES_IT_PAY["results_table"]()
    assert f"<!-- results -->\n{table}<!-- end results -->" in readme
    for folder in COMPARISONS:
        (one,) = compare_runs(read_runs([folder]).runs)
        sentences = headlines(one)
        assert len(sentences) == (2 if one.arm("LLR") else 1)
        for sentence in sentences:
            numbers = re.findall(r"improvement (\S+) points|CI (\[.*?\])|(\S+ ± \S+)", sentence)
            assert numbers and all(number in table for found in numbers for number in found), sentence
            assert "not significant" in sentence or "no statistics" in sentence


@pytest.mark.parametrize("archive", STUDIES, ids=lambda one: one.name.removesuffix(".tar.gz"))
def test_study_of_retraining_is_generated_from_the_records(archive, tmp_path):
    runs = DOES_IT_PAY["read_packed"](archive, tmp_path)
    assert not runs.refused
    studies, others = retraining_studies(runs.runs)
    (study,) = studies
    assert not study.unfinished and not study.left_out
    # Arms that were stopped early are known, and the report's note says so.
    stopped = {"retrain-lenet300-5000": {"llr-hot-0.8", "hot-0.8", "hot-0.9", "former-0.5", "former-0.8"}}
    assert {*study.still_to_come} == stopped.get(archive.name.removesuffix(".tar.gz"), set())
    assert len(study.parents) >= 5 and min(study.num_repeats) >= 2
    written = to_markdown(runs, compare_runs(others), studies)
    assert written.count("|") > 100
    assert written in (archive.parents[1] / "RESULTS.md").read_text(encoding="utf-8")


def test_page_on_whether_it_pays_shows_what_the_records_say():
    """No study is lost on the way, nor a comparison that has LLR; the pictures show the table's rows."""
    page = (ROOT / "docs" / "does-it-pay.md").read_text(encoding="utf-8")
    rows = DOES_IT_PAY["all_rows"]()
    assert len({row.study for row in rows}) == len(STUDIES) + sum(
        one.arm("LLR") is not None for one in DOES_IT_PAY["comparisons"]()
    )
    assert f"<!-- studies -->\n{DOES_IT_PAY['page_table'](rows)}<!-- end studies -->" in page
    for name, num_lines in (
        ("pruning", len(rows)),
        ("ladder", len({(row.study, row.llr) for row in rows})),
    ):
        lines = DOES_IT_PAY[f"{name}_lines"](rows)
        picture = (ROOT / "docs" / f"does-it-pay-{name}.svg").read_text(encoding="utf-8")
        assert len(lines) == num_lines
        assert all(line.arm in picture and line.task in picture for line in lines)
        drawn = [float(high.replace("−", "-")) for high in re.findall(r"high: ([−\d.]+)", picture)]
        assert drawn == pytest.approx([line.found.high for line in lines], rel=1e-9)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.parent.name)
def test_results_are_filled_in_and_lead_somewhere(sheet):
    text = sheet.read_text(encoding="utf-8")
    assert text.count("<!-- report -->") == text.count("<!-- end report -->")
    assert not re.search(r"<!-- report -->\s*<!-- end", text)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (sheet.parent / link).exists(), link


def test_records_of_captions_are_checked_too(tmp_path, phase_records):
    run = RunFolder(tmp_path)
    rows = [
        {"id": "1", "refs": ["a b c d e", "a b c"], "hyp": "a b c d"},
        {"id": "2", "refs": ["e f g h i j"], "hyp": "e f g h"},
    ]
    write_json_lines(run.hypotheses("Dense Iter 0", "test"), rows)
    # All n-grams match; the references closest in length have 3 (the shorter of two) and 6 words to the 8 here.
    rest = {name: value for name, value in scores(rows).items() if name in ("cider_d", "rouge_l")}
    test = {f"neuraltalk_bleu{n}": 100.0 for n in (1, 2, 3, 4)} | rest
    penalty = math.exp(1 - 9 / 8)
    test |= {f"bleu{n}": 100 * penalty for n in (1, 2, 3, 4)} | {"brevity_penalty": penalty}
    [record] = phase_records([Phase("Dense Iter 0", "dense", 1, 0.1)])
    said = {"decoding": "greedy"}
    run.write_phases([{**record, "dev": test | said, "test": test | said}])
    check_hypotheses(run, "none")
    for name in test:
        lower = {name: test[name] - 1e-3}
        run.write_phases([{**record, "dev": test | said, "test": test | said | lower}])
        with pytest.raises(AssertionError, match="dense-iter-0"):
            check_hypotheses(run, "none")


def test_there_are_records():
    assert RECORDS and COMPARISONS
