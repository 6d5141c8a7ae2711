"""Hook of mkdocs.yml: the site has the repository's own tree, so that its links hold there as they do on disk.

MkDocs takes one folder; README.md, RESULTS.md and others stand outside docs/ and are linked both ways.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "benchmarks/*.md", "recipes/*/*.md", "docs/**/*.md")
PICTURES = ("docs/**/*.png", "docs/**/*.svg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put pages and pictures, named by their path in the repository, in the place of what docs/ holds."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = [path.relative_to(ROOT) for pattern in PAGES + PICTURES for path in sorted(ROOT.glob(pattern))]
    ours = [
        File(path.as_posix(), str(ROOT), config.site_dir, use_directory_urls=config.use_directory_urls)
        for path in paths
    ]
    return Files([*of_theme, *ours])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what is in the repository but not on the site (records, scripts) become their text."""
    folder = (ROOT / page.file.src_uri).parent

    def text_alone(link: re.Match[str]) -> str:
        target = (folder / link["path"]).resolve()
        is_left_out = target.exists() and not files.get_file_from_path(str(target.relative_to(ROOT)))
        return link["text"] if is_left_out else link[0]

    return re.sub(r"(?<!!)\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<path>[^)#]+)[^)]*\)", text_alone, markdown)
