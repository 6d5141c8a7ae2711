"""What the pages share: escaping, policies, sizes."""

import base64
import hashlib
import json

import pytest

from seqdsd.reports.page.rendering import asset, file_size, inline, json_markup, render


@pytest.mark.parametrize(
    "value",
    [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "a & b",
        "\u2028\u2029",
        "ö 中 😀",
        '"\\',
        float("nan"),
    ],
)
def test_json_survives_in_a_script_element(value):
    text = str(json_markup({"a": [value]}))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": [None if value != value else value]}


def test_what_runs_is_named_by_its_hash():
    one = inline("let a = '<b>';")
    digest = hashlib.sha256(one.text.encode()).digest()
    assert one.hash == "sha256-" + base64.b64encode(digest).decode()
    assert one.text == "let a = '<b>';"


def test_style_sheets_become_one_and_captions_are_complete():
    with pytest.raises(Exception, match="undefined"):
        render("captions.html", styles=("page.css", "captions.css"), scripts=())
    assert asset("page.css").startswith("/*")


def test_sizes_for_people(tmp_path):
    for size, said in ((1_234, "1 kB"), (999_000, "999 kB"), (7_012_345, "7.0 MB")):
        (tmp_path / "file").write_bytes(b"x" * size)
        assert file_size(tmp_path / "file") == said
