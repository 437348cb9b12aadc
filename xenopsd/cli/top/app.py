"""The screen of `xenops top`, and what its keys do.

The feed's thread asks the daemon; what it tells is put on the board and shown a few times a
second, in the table that can be seen. Calls that a key makes have threads of their own: the
screen never waits for the daemon.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from idl.client import Client
from xenopsd.cli import explain
from xenopsd.cli.failure import explain as explain_failure
from xenopsd.cli.top import board
from xenopsd.cli.top.board import Board, Look
from xenopsd.cli.top.feed import Away, Changed, Feed, News
from xenopsd.cli.top.screens import Question, Story
from xenopsd.cli.top.tables import RowTable, WorkerTable

#: How often the screen takes up what has changed, in seconds.
BEAT = 0.2
#: How long x gives a guest to shut down, in seconds.
PATIENCE = 60.0

TABS = {"vms": "VMs", "queues": "Queues", "tasks": "Tasks", "workers": "Workers"}


class Told(Message):
    """News of the feed, on their way to the screen."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news


class Top(App[None]):
    """VMs, queues, tasks and workers of one instance."""

    TITLE: str | None = "xenops top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Start"),
        Binding("x", "stop", "Stop"),
        Binding("X", "stop_hard", "Stop hard"),
        Binding("c", "cancel", "Cancel task"),
        Binding("e", "explain", "Explain"),
        Binding("o", "order", "Order"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "Show all", show=False),
        *(Binding(str(n), f"tab('{tab}')", tab, show=False) for n, tab in enumerate(TABS, 1)),
        Binding("q", "quit", "Quit"),
        # As in every other command; the library would ask for another key.
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    # The screen itself never scrolls: the focus given to a table that is not laid out yet would
    # scroll the head away, for good.
    CSS = """
    Screen { overflow: hidden; }
    #head { height: 2; padding: 0 1; background: $panel; }
    #away { height: auto; padding: 0 1; background: $error; display: none; }
    #filter { display: none; }
    TabPane { padding: 0; }
    RowTable { height: 1fr; }
    """

    def __init__(self, socket: Path, interval: float) -> None:
        super().__init__()
        self.board = Board()
        self.wanted = ""
        self.ordered = board.ORDERS[0]
        self._stale = True
        # Held, not looked up: while a question stands over them a look-up finds the question.
        self._head = Static(id="head", markup=False)
        self._away = Static(id="away", markup=False)
        self._line = Input(placeholder="show VMs with this in id, name or state", id="filter")
        self._tabs = TabbedContent(id="tabs")
        self._tables = {
            "vms": RowTable(board.VM_TITLES, id="vm-table"),
            "queues": RowTable(board.QUEUE_TITLES, id="queue-table"),
            "tasks": RowTable(board.TASK_TITLES, id="task-table"),
            "workers": WorkerTable(board.WORKER_TITLES, id="worker-table"),
        }
        self._client = Client(socket)
        self._feed = Feed(socket, interval, self._hear)

    def compose(self) -> ComposeResult:
        """A head, a table a tab, a line for the filter."""
        yield self._head
        yield self._away
        with self._tabs:
            for number, (tab, title) in enumerate(TABS.items(), start=1):
                with TabPane(f"{number} {title}", id=tab):
                    yield self._tables[tab]
        yield self._line
        yield Footer()

    def on_mount(self) -> None:
        """Begin to ask."""
        self.table.focus(scroll_visible=False)
        self.set_interval(BEAT, self._show)
        self._feed.start()

    def on_unmount(self) -> None:
        """Let go of the daemon."""
        self._feed.stop()
        self._client.close()

    # What the feed tells

    def _hear(self, news: News) -> None:
        self.post_message(Told(news))

    @on(Told)
    def _put(self, told: Told) -> None:
        match told.news:
            case Changed(vms, gone, tasks, whole):
                self.board.put_vms(vms, gone, whole=whole)
                self.board.put_tasks(tasks, whole=whole)
            case Look() as look:
                self.board.put_look(look)
            case Away():
                pass
        self._say_away(told.news.reason if isinstance(told.news, Away) else "")
        self._stale = True

    def _say_away(self, reason: str) -> None:
        self._away.display = bool(reason)
        self._away.update(reason)

    def _show(self) -> None:
        """Bring the head and the table that can be seen up to date."""
        if not self._stale:
            return
        self._stale = False
        self._head.update("\n".join(self.board.head()))
        match self.tab:
            case "vms":
                rows = self.board.vm_rows(self.wanted, self.ordered)
            case "queues":
                rows = self.board.queue_rows()
            case "tasks":
                rows = self.board.task_rows()
            case _:
                rows = self.board.worker_rows()
        self.table.show(rows)

    @property
    def tab(self) -> str:
        """The tab that is seen."""
        return self._tabs.active or "vms"

    @property
    def table(self) -> RowTable:
        """The table that is seen."""
        return self._tables[self.tab]

    # What is chosen

    @property
    def chosen_vm(self) -> str | None:
        """The VM that the cursor is about."""
        key = self.table.chosen
        if key is None:
            return None
        match self.tab:
            case "tasks":
                return self.board.tasks[key].vm if key in self.board.tasks else None
            case "workers":
                return key.rpartition(" ")[2]
            case _:
                return key

    @property
    def chosen_task(self) -> str | None:
        """The task that the cursor is about: the chosen one, or what its VM's queue does."""
        if self.tab == "tasks":
            return self.table.chosen
        record = self.board.vms.get(self.chosen_vm or "")
        operation = None if record is None else record.state.operation
        return None if operation is None else operation.task

    # Keys

    def action_start(self) -> None:
        """Start the chosen VM."""
        if vm := self.chosen_vm:
            self._ask(f"start {vm}", lambda: self._client.vm.start(vm))

    def action_stop(self) -> None:
        """Shut the chosen VM down, after a question."""
        self._stop("Shut down", PATIENCE)

    def action_stop_hard(self) -> None:
        """Shut the chosen VM down without asking its guest, after a question."""
        self._stop("Stop hard, without asking its guest:", None)

    def _stop(self, words: str, timeout: float | None) -> None:
        if (vm := self.chosen_vm) is None:
            return

        def answered(yes: bool | None) -> None:  # noqa: FBT001  # textual's signature
            if yes:
                self._ask(f"stop {vm}", lambda: self._client.vm.shutdown(vm, timeout))

        self.push_screen(Question(f"{words} {vm}?"), answered)

    def action_cancel(self) -> None:
        """Cancel the chosen task."""
        if (task := self.chosen_task) is None:
            self.notify("Nothing to cancel: no operation of it goes on.", severity="warning")
            return
        self._ask(f"cancel {task}", lambda: self._client.task.cancel(task))

    def action_explain(self) -> None:
        """Say why the chosen VM is where it is."""
        if vm := self.chosen_vm:
            self._ask("", lambda: self._tell(vm))

    def _tell(self, vm: str) -> None:
        text = explain.text(explain.case(self._client, vm))
        self.call_from_thread(self.push_screen, Story(text))

    def action_order(self) -> None:
        """The next order of VMs."""
        following = board.ORDERS.index(self.ordered) + 1
        self.ordered = board.ORDERS[following % len(board.ORDERS)]
        self.notify(f"ordered by {self.ordered}")
        self._again()

    def action_filter(self) -> None:
        """Type what VMs to show."""
        self.action_tab("vms")
        self._line.display = True
        self._line.focus()

    def action_unfilter(self) -> None:
        """Show every VM again."""
        self._line.clear()
        self._line.display = False
        self.table.focus()

    def action_tab(self, tab: str) -> None:
        """Show another table."""
        self._tabs.active = tab
        self.table.focus()
        self._again()

    @on(Input.Changed, "#filter")
    def _filter(self, typed: Input.Changed) -> None:
        self.wanted = typed.value.strip()
        self._again()

    @on(Input.Submitted, "#filter")
    def _filtered(self) -> None:
        self._line.display = bool(self.wanted)
        self.table.focus()

    @on(TabbedContent.TabActivated)
    def _activated(self) -> None:
        self._again()

    @on(DataTable.RowSelected)
    def _selected(self) -> None:
        self.action_explain()

    def _again(self) -> None:
        self._stale = True
        self._show()

    # Calls

    def _ask(self, what: str, ask: Callable[[], object]) -> None:
        """Make a call beside the screen, and say how it went."""

        def asked() -> None:
            try:
                ask()
            except Exception as error:
                if (failure := explain_failure(error)) is None:
                    raise
                words = failure.sentence + (f" Next: {failure.advice}" if failure.advice else "")
                self.call_from_thread(self.notify, words, severity="error", markup=False)
            else:
                if what:
                    self.call_from_thread(self.notify, f"asked: {what}", markup=False)

        self.run_worker(asked, thread=True)
