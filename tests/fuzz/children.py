"""Cases in a child process: a hang or a crash in native code, which nothing catches in one's own, fails one case."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Outcome:
    number: int
    line: str
    is_wrong: bool


def _run(run: Callable[[int], str], numbers: list[int], wire: Connection) -> None:
    for number in numbers:
        try:
            wire.send((run(number), False))
        except AssertionError as error:
            wire.send((str(error), True))


def outcomes(run: Callable[[int], str], numbers: Iterable[int], stuck: float) -> Iterator[Outcome]:
    """
    What `run` says of each case; wrong is one that it raises an `AssertionError` of.

    One child has them all, and is killed where a case takes more than `stuck` seconds. Another goes on after a case
    that held up its child or ended it, which is wrong too.

    Args:
        run: a function of a module, or a `partial` of one, as it travels to the child.
    """
    left = list(numbers)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.fuzz.targets"])  # its imports take seconds
    while left:
        wire, child_end = processes.Pipe(duplex=False)
        child = processes.Process(target=_run, args=(run, left, child_end))
        child.start()
        child_end.close()
        try:
            while left:
                if not wire.poll(stuck):
                    yield Outcome(left.pop(0), f"it hangs: nothing interrupts it for {stuck:.0f} seconds", True)
                    break
                try:
                    line, is_wrong = wire.recv()
                except EOFError:
                    child.join()
                    yield Outcome(left.pop(0), f"it ends its process (exit code {child.exitcode})", True)
                    break
                yield Outcome(left.pop(0), line, is_wrong)
        finally:
            child.kill()
            child.join()
