"""``seqdsd report`` as a command."""

import csv
import io
import json

import pytest

from seqdsd.records import RunFolder
from seqdsd.reports.report import default_out, main


@pytest.fixture
def folder(make_comparison):
    """Two arms of two seeds."""
    return make_comparison(seeds=[0, 1], arms=["baseline", "dsd"])


def test_the_page_is_written_where_the_runs_are(folder, capsys):
    main([str(folder)])
    out = folder / "report.html"
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    said = capsys.readouterr().out
    assert said == f"{out}: 4 runs, 42 utterances or images, {size}; open it in a browser\n"
    assert out.read_text(encoding="utf-8").endswith("</html>")
    main([str(folder)])  # the page is no run
    assert "4 runs" in capsys.readouterr().out


def test_by_default_the_page_lies_above_all_runs(tmp_path):
    paths = [tmp_path / "a" / "seed-0" / "dsd", tmp_path / "a" / "seed-1", tmp_path / "a" / "b"]
    assert default_out(paths[:1]) == paths[0] / "report.html"
    assert default_out(paths[:2]) == default_out(paths) == tmp_path / "a" / "report.html"


def test_numbers_are_written_beside_it(folder, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    files = {name: tmp_path / "new" / f"numbers.{name}" for name in ("json", "csv", "latex", "markdown")}
    flags = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    main([str(folder / "seed-0"), str(folder / "seed-1"), "--out", str(out), "--media-mb", "0", *flags])
    assert capsys.readouterr().out.startswith(f"{out}: 4 runs")
    assert len(json.loads(files["json"].read_text())["runs"]) == 4
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert {row["arm"] for row in rows} == {"Baseline", "DSD"}
    assert files["latex"].read_text().count(r"\begin{table}") >= 5
    assert files["markdown"].read_text().startswith("**AN4, 2 seeds: DSD ")


def test_a_dash_writes_to_standard_output_and_nothing_else_does(folder, capsys):
    main([str(folder), "--json", "-"])
    said = capsys.readouterr()
    assert json.loads(said.out)["comparisons"]
    assert "open it in a browser" in said.err


def test_what_is_refused_is_said_and_the_rest_is_reported(folder, capsys):
    damaged = RunFolder(folder / "seed-1/dsd")
    damaged.phases.write_text("{}\n")
    main([str(folder)])
    said = capsys.readouterr()
    assert f"refused: {damaged.phases}:1: object missing required field `name`" in said.err.replace("\n", "")
    assert "3 runs" in said.out
    assert f"{damaged.phases}:1" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split", "train"], "no run was scored on 'train'"),
        (["--media-mb", "-1"], "must be a number of at least 0, got -1.0"),
        (["--out", "."], "error: "),
    ],
)
def test_the_command_fails_in_one_line(folder, capsys, flags, said):
    with pytest.raises(SystemExit, match="1"):
        main([str(folder), *flags])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_nothing_to_report(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "empty")])
    assert "no run in it" in capsys.readouterr().err
    for path in folder.glob("*/*/config.toml"):
        path.unlink()
    with pytest.raises(SystemExit, match="1"):
        main([str(folder)])
    said = capsys.readouterr().err
    assert said.count("refused: ") == 4 and said.endswith("error: none of the runs can be reported\n")
    assert not (folder / "report.html").exists()


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "seqdsd report runs/an4-comparison --media-mb 20" in capsys.readouterr().out
