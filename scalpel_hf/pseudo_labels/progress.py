import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Says how fast frames are answered and, where their number is known, how long it will take."""

    report: Callable[[str], None]
    total: int | None
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def update(self, shard: int, frames: int) -> None:
        self.done += frames
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        ahead = "" if self.total is None else f" of {self.total}, {(self.total - self.done) / rate:.0f} s to go"
        self.report(f"shard {shard}: {rate:.1f} images/s, {self.done}{ahead}")
