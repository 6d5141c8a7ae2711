"""What the HTML pages have in common: one file each that loads nothing, and whose policy forbids the browser to."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqdsd.records import json_values


@dataclass(frozen=True)
class Inline:
    """A style or script within a page, and how the page's security policy names it."""

    text: Markup
    hash: str


def render(template: str, *, styles: Sequence[str], scripts: Sequence[Inline], **context: Any) -> str:
    """Fill a template of this package; all that is not ``Markup`` is escaped.

    Args:
        template: Its file name.
        styles: File names of the style sheets, which become one.
        scripts: As the template places them.
        context: What else the template shows.
    """
    templates = Environment(
        autoescape=True,  # captions, transcripts and file names may hold anything
        loader=PackageLoader("seqdsd.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = inline("\n".join(map(asset, styles)))
    return templates.get_template(template).render(style=style, scripts=scripts, **context)


def asset(name: str) -> str:
    """The text of a file among the templates."""
    return (resources.files("seqdsd.reports") / "templates" / name).read_text(encoding="utf-8")


def inline(text: str) -> Inline:
    """Let a page hold and run this text of ours."""
    return Inline(Markup(text), f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}")


def json_markup(value: Any) -> Markup:
    """JSON that stands in a script element whatever strings it holds."""
    text = json.dumps(json_values(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # </script> ends the element, <!-- turns it into a comment
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def file_size(path: Path) -> str:
    """How large a file is, for people."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
