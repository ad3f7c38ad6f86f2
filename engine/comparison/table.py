"""A table for the terminal, Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

FORMATS = ("txt", "md", "tex", "csv", "html")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "→": r"$\to$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Args:
        title: above it.
        columns: their heads.
        rows: a line each.
        notes: lines below.
        commands: a row's name and what makes it; as many as rows, or none.
        first: columns that are text, left-aligned.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()
    first: int = 1

    def text(self) -> str:
        """For the terminal."""
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows)]
        lines = [self._line(self.columns, widths), "-" * (sum(widths) + 2 * len(widths) - 2)]
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join([self.title, "", *lines, "", *self.notes]).rstrip()

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        shown = [c.ljust(w) if i < self.first else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "  ".join(shown).rstrip()

    def markdown(self) -> str:
        """For documents: the table, the notes, the command of each row."""
        cells = [[c.replace("|", "\\|") for c in row] for row in (self.columns, *self.rows)]
        rule = ["---"] * self.first + ["---:"] * (len(self.columns) - self.first)
        lines = ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
        text = [f"# {self.title}", "", *lines]
        for note in self.notes:
            text += ["", note]
        if self.commands:
            named = [f"# {name}\n{command}" for name, command in self.commands]
            text += ["", "The command of each row:", "", "```", *named, "```"]
        return "\n".join(text) + "\n"

    def latex(self) -> str:
        """A ``tabular`` with the rules of ``booktabs``."""
        shape = "l" * self.first + "r" * (len(self.columns) - self.first)
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in (self.columns, *self.rows)]
        notes = [f"% {note}" for note in (self.title, *self.notes)]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        return "\n".join([*notes, rf"\begin{{tabular}}{{{shape}}}", *body, r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        """Columns and rows, with the commands in the last column."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        commands = [[command] for _, command in self.commands] or [[] for _ in self.rows]
        writer.writerow([*self.columns, *["command"] * bool(self.commands)])
        writer.writerows([*row, *more] for row, more in zip(self.rows, commands))
        return out.getvalue()

    def html(self, pictures: Sequence[tuple[str, bytes]] = ()) -> str:
        """A page of its own.

        Args:
            pictures: titles and the bytes of PNG files, shown below the table.
        """
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>\n" for row in self.rows
        )
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        shown = "".join(
            f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{base64.b64encode(data).decode()}">\n'
            for title, data in pictures
        )
        commands = "\n".join(html.escape(f"# {name}\n{command}") for name, command in self.commands)
        listed = f"<h2>The command of each row</h2>\n<pre>{commands}</pre>\n" if self.commands else ""
        return (
            f'<!doctype html>\n<meta charset="utf-8">\n<title>{html.escape(self.title)}</title>\n'
            f"<style>{_STYLE}</style>\n"
            f"<h1>{html.escape(self.title)}</h1>\n<table>\n<tr>{head}</tr>\n{body}</table>\n{notes}{shown}{listed}"
        )

    def render(self, kind: str, pictures: Sequence[tuple[str, bytes]] = ()) -> str:
        """The table as txt, md, tex, csv or html."""
        if kind == "html":
            return self.html(pictures)
        return {"txt": self.text, "md": self.markdown, "tex": self.latex, "csv": self.csv}[kind]()


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}"
    "pre{overflow-x:auto;background:#f6f6f6;padding:1em}"
)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
