"""What a run shows while it trains: one line with loss, score, images per second and time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True)  # one for the bar and the log, so that they do not write into each other


class Bar(Progress):
    """A progress bar over all updates of a run; silent where nobody looks at a terminal."""

    def __init__(self, total: int, done: int, title: str, show: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=CONSOLE,
            disable=not (show and CONSOLE.is_terminal),
        )
        self.score = ""  # of the last evaluation, with its name and unit
        self.updates = self.add_task(title, total=total, completed=done, numbers="")

    def step(self, epoch: int, loss: float, images_per_second: float | None) -> None:
        """One update is done."""
        speed = "" if images_per_second is None else f"{images_per_second:.0f} img/s"
        numbers = "  ".join(filter(None, [f"epoch {epoch + 1}", f"loss {loss:.3f}", self.score, speed]))
        self.update(self.updates, advance=1, numbers=numbers)
