"""Tables that are shown rows and change only what is another than before."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from xenopsd.cli.output import STYLES
from xenopsd.cli.top.board import Rows


class RowTable(DataTable[Text]):
    """A table of keyed rows; the cursor stays on its row, wherever that moves to.

    The widget draws the lines that can be seen, so a thousand rows cost what is changed.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        # A cursor of whole rows has nowhere else to go.
        Binding("home", "scroll_top", "First", show=False),
        Binding("end", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, titles: Sequence[str], id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True)
        self._titles = titles
        self._shown: Rows = {}

    def on_mount(self) -> None:
        for title in self._titles:
            self.add_column(title, key=title)

    @property
    def chosen(self) -> str | None:
        """The key under the cursor."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def show(self, rows: Rows) -> None:
        """Make these the rows, in this order."""
        chosen, before = self.chosen, list(self._shown)
        gone = self._shown.keys() - rows.keys()
        if len(gone) > len(rows):
            # To take rows out one by one costs more than to begin anew.
            self.clear()
            before, self._shown, gone = [], {}, set()
        for key in gone:
            self.remove_row(key)
        for key, row in rows.items():
            self._put(key, row)
        moved = [key for key in before if key in rows] + [k for k in rows if k not in self._shown]
        self._shown = rows
        if moved != list(rows):
            self._order(list(rows))
        if chosen in rows and chosen != self.chosen:
            self.move_cursor(row=self.get_row_index(chosen), animate=False)
        if before != list(rows):
            # Once the widget has measured the new rows: it does not always draw them by itself
            # when that falls together with the first layout of the screen.
            self.call_after_refresh(self.refresh)

    def _put(self, key: str, row: tuple[str, ...]) -> None:
        before = self._shown.get(key)
        if before is None:
            self.add_row(*map(_cell, row), key=key)
        elif before != row:
            for title, old, new in zip(self._titles, before, row, strict=True):
                if old != new:
                    self.update_cell(key, title, _cell(new), update_width=len(new) > len(old))

    def _order(self, keys: list[str]) -> None:
        """Sorted by the first column, which tells the row apart."""
        places = {self._shown[key][: self._telling]: n for n, key in enumerate(keys)}
        columns = self._titles[: self._telling]

        def place(cells: Any) -> int:
            texts = cells if isinstance(cells, tuple) else (cells,)
            return places[tuple(text.plain for text in texts)]

        self.sort(*columns, key=place)

    #: So many first columns tell rows apart.
    _telling = 1


class WorkerTable(RowTable):
    """Of holders, one of which may hold several queues."""

    _telling = 2


def _cell(text: str) -> Text:
    return Text(text, style=STYLES.get(text, ""), no_wrap=True)
