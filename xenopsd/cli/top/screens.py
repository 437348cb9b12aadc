"""What stands over the tables for a moment: a question, or a story."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class Question(ModalScreen[bool]):
    """Asks for yes or no; anything but y is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]
    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Vertical { width: auto; max-width: 80%; height: auto; padding: 1 2;
        background: $panel; border: round $warning; }
    Question Static { width: auto; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question, with the keys."""
        with Vertical():
            yield Static(f"{self._question}\n\ny: yes   n: no", markup=False)

    def action_answer(self, answer: bool) -> None:  # noqa: FBT001  # a binding's argument
        """Close with the answer."""
        self.dismiss(answer)


class Story(ModalScreen[None]):
    """A text that may be longer than the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,e,enter", "leave", "Back")]
    DEFAULT_CSS = """
    Story { align: center middle; }
    Story VerticalScroll { width: 90%; height: 80%; padding: 1 2; background: $panel;
        border: round $primary; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        """The text, to be scrolled."""
        with VerticalScroll():
            yield Static(self.text, markup=False)

    def action_leave(self) -> None:
        """Back to the tables."""
        self.dismiss(None)
