"""One table, laid out for documents, terminals, papers and spreadsheets. What stands in it is others' business."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable
from rich.markup import escape
from rich.table import Table

from seqdsd.kinds import NONE

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Cells of a table, before any layout.

    Attributes:
        name: What it is called in files: lower case, no spaces.
        header: A title a column; a line break in it holds in the terminal only.
        sections: Rows as wide as the header, in sections between which there is a line.
        caption: What a reader must know; one paragraph.
        num_labels: So many columns from the left are text.
        num_last: So many columns from the right go into a second table where there is no room for one.
        best: Number of the row to be marked, counted over all sections; None for none.
    """

    name: str
    header: Cells
    sections: tuple[tuple[Cells, ...], ...]
    caption: str
    num_labels: int = 1
    num_last: int = 0
    best: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"{self.name}: a row of {len(row)} cells in a table of {len(self.header)} columns: {row}"
                )

    @property
    def rows(self) -> tuple[Cells, ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section)

    @property
    def plain_header(self) -> Cells:
        """The header without line breaks."""
        return tuple(title.replace("\n", " ") for title in self.header)

    def to_markdown(self) -> str:
        """GitHub's Markdown, the caption as the last paragraph."""
        rule = [":--"] * self.num_labels + ["--:"] * (len(self.header) - self.num_labels)
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.plain_header, rule, *self.rows)]
        lines = [f"| {' | '.join(cells)} |" for cells in rows]
        return "\n".join([*lines, "", self.caption, ""])

    def to_latex(self) -> str:
        """A ``table`` environment for the package ``booktabs``, labelled ``tab:NAME``; the best row is bold."""
        columns = "l" * self.num_labels + "r" * (len(self.header) - self.num_labels)
        numbers = iter(range(len(self.rows)))
        sections = [
            "\n".join(_latex_row(row, is_bold=next(numbers) == self.best) for row in section)
            for section in self.sections
        ]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.caption)}}}",
                rf"\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                _latex_row(self.plain_header),
                r"\midrule",
                "\n\\midrule\n".join(section for section in sections if section),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def to_terminal(self) -> ConsoleRenderable:
        """For rich: one table where there is room, else as many as it takes."""
        return _TerminalTable(self)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "’": "'",
}


def latex(text: str) -> str:
    """Text as LaTeX prints it; a hyphen before a digit becomes a minus sign."""
    minus = re.sub(r"(?<![\w.])-(?=\d)", "−", text)
    return "".join(_LATEX.get(character, character) for character in minus)


def _latex_row(cells: Sequence[str], *, is_bold: bool = False) -> str:
    form = r"\textbf{{{}}}" if is_bold else "{}"
    return " & ".join(form.format(latex(cell)) for cell in cells) + r" \\"


@dataclass(frozen=True)
class _TerminalTable:
    """The table in one piece where it fits, and else in as many as it takes, which begin with the same labels."""

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        grid, columns = self.grid, list(range(len(self.grid.header)))
        for is_tight in (False, True):
            if self._width(columns, is_tight=is_tight) <= options.max_width:
                yield self._table(columns, is_tight=is_tight, caption=grid.caption)
                return
        pieces = self._pieces(options.max_width)
        for number, piece in enumerate(pieces, start=1):
            yield self._table(piece, caption=grid.caption if number == len(pieces) else None)

    def _pieces(self, max_width: int) -> list[list[int]]:
        """Columns of each piece: cut before the last ones, and further wherever it grows too wide."""
        grid = self.grid
        labels, cut = list(range(grid.num_labels)), len(grid.header) - grid.num_last
        pieces: list[list[int]] = []
        for column in range(grid.num_labels, len(grid.header)):
            wider = [*pieces[-1], column] if pieces else []
            if not pieces or column == cut or self._width(wider) > max_width:
                pieces.append([*labels, column])
            else:
                pieces[-1] = wider
        return pieces or [labels]

    def _width(self, columns: Sequence[int], *, is_tight: bool = False) -> int:
        cells = [[row[column] for row in (self.grid.header, *self.grid.rows)] for column in columns]
        widest = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells]
        return sum(widest) + (len(columns) - 1 if is_tight else 2 * len(columns) + 1)

    def _table(self, columns: Sequence[int], *, is_tight: bool = False, caption: str | None = None) -> Table:
        """One or, if not tight, two spaces between columns, and an edge around them."""
        grid = self.grid
        padding = (0, 0 if is_tight else 1, 0, 0)
        text = escape(caption) if caption else None
        table = Table(caption=text, box=SIMPLE_HEAD, padding=padding, show_edge=not is_tight)
        for column in columns:
            is_label = column < grid.num_labels
            table.add_column(
                escape(grid.header[column]), justify="left" if is_label else "right", no_wrap=True
            )
        ends = set(accumulate(map(len, grid.sections)))
        # Improvements have nothing among the last columns, such as what training took.
        is_of_last = columns[grid.num_labels] >= len(grid.header) - grid.num_last if grid.num_last else False
        for number, row in enumerate(grid.rows):
            cells = [escape(row[column]) for column in columns]
            if not (is_of_last and set(cells[grid.num_labels :]) == {NONE}):
                style = "bold" if number == grid.best else None
                table.add_row(*cells, style=style, end_section=number + 1 in ends)
        return table
