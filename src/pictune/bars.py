"""How work that takes a while is shown in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


# The numbers of an epoch that are shown, as far as the task has them
TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "map": "mAP",
    "map50": "mAP50",
    "mean_iou": "mean IoU",
}


class Bars:
    """Shows work as progress bars on stderr, and one line an epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._opening: TaskID | None = None

    def opened(self, done: int, total: int) -> None:
        """So many pictures are opened, of so many."""
        if self._opening is None:
            self._opening = self._progress.add_task("opening pictures", total=total)
        self._progress.update(self._opening, completed=done, visible=done < total)

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """A batch was learnt."""
        text = f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}"
        if self._bar is None:
            self._bar = self._progress.add_task(text, total=epochs * steps)
        self._progress.update(self._bar, completed=epoch * steps + step, description=text)

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """An epoch was judged."""
        star = "  best so far" if facts["best"] else ""
        shown = [(title, facts[f"val_{name}"]) for name, title in TITLES.items() if f"val_{name}" in facts]
        numbers = "  ".join(f"{title} {value:.4f}" for title, value in shown)
        self._progress.console.print(
            f"epoch {facts['epoch']:>3}  loss {facts['train_loss']:.4f}  validation {numbers}{star}",
            highlight=False,
        )

    def say(self, sentence: str) -> None:
        """Something happened that a person should know."""
        self._progress.console.print(sentence, highlight=False, markup=False)


@contextmanager
def bars() -> Iterator[Bars]:
    """Inside, work is shown; in a file or a pipe without the bars."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # In a file or a pipe a bar is only noise; the sentences and the lines of the epochs are not
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bars(progress)
