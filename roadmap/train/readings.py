"""Numbers of each update, read from a GPU a few updates late, so that it never waits for the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LAG = 4  # updates that may be under way on a GPU


@dataclass
class Readings:
    """A queue of small tensors on their way to the host.

    The lag is a fixed number of updates, not a time: several processes of one run read the same values at the same
    update and so decide alike.
    """

    device: torch.device
    waiting: deque[tuple[Tensor, torch.cuda.Event | None, list[float]]] = field(default_factory=deque)

    @property
    def lag(self) -> int:
        """How many updates late values are read; a CPU has nothing to wait for."""
        return LAG if self.device.type == "cuda" else 0

    def push(self, values: Tensor, known: Sequence[float] = ()) -> list[float] | None:
        """Send the values of an update on their way, with what the host knows already to be read along with them.

        Returns those of the update `lag` before it, if there was one.
        """
        self.waiting.append((*self._send(values), list(known)))
        return self._read() if len(self.waiting) > self.lag else None

    def drain(self) -> Iterator[list[float]]:
        """All values still on their way, the oldest first."""
        while self.waiting:
            yield self._read()

    def _send(self, values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self.device.type != "cuda":
            return values, None
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event

    def _read(self) -> list[float]:
        values, event, known = self.waiting.popleft()
        if event is not None:
            event.synchronize()
        return [*values.tolist(), *known]
