"""The page of the documentation that a run's figures stand on.

Only what is between the two marks is written; the words around it, which explain the figures, are
kept.
"""

from datetime import UTC, datetime
from pathlib import Path

from bench.charts import PICTURES, draw
from bench.report import Report, as_markdown

BEGIN = "<!-- written by `make bench WRITE_DOCS=1`: begin -->"
END = "<!-- written by `make bench WRITE_DOCS=1`: end -->"


def write(report: Report, page: Path) -> None:
    """Put a run's figures into the page, and its pictures beside it.

    ValueError where the page has no marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page.name} has no marks for the figures")
    draw(report.curves, page.parent / "pictures")
    page.write_text(f"{before}{BEGIN}\n{_figures(report)}\n{END}{after}")


def _figures(report: Report) -> str:
    day = datetime.fromtimestamp(report.at, UTC).date().isoformat()
    pictures = [f"![{title}](pictures/{file})" for file, (title, _) in PICTURES.items()]
    return "\n\n".join([f"Measured on {day}: {as_markdown(report)}", *pictures])
