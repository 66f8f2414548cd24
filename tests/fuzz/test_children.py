"""A case that hangs or crashes where Python can't help fails alone, and the others go on."""

import ctypes
import os
import signal
import time

import pytest

from tests.fuzz.children import outcomes
from tests.fuzz.test_fuzz import limited

HANGS, CRASHES, ENDS, IS_WRONG = 1, 2, 4, 5


def odd_case(number: int) -> str:
    if number == HANGS:  # as in native code: it holds the interpreter, and no handler of a signal runs
        with limited():
            ctypes.PyDLL(None).sleep(600)
    if number == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == ENDS:
        os._exit(3)
    assert number != IS_WRONG, "another word"
    return f"right {number}"


@pytest.mark.timeout(120)
def test_a_case_that_hangs_or_crashes_fails_alone() -> None:
    began = time.monotonic()
    found = list(outcomes(odd_case, range(7), stuck=5))
    assert [outcome.number for outcome in found] == list(range(7))
    assert [outcome.number for outcome in found if outcome.is_wrong] == [HANGS, CRASHES, ENDS, IS_WRONG]
    lines = [outcome.line for outcome in found]
    assert "hangs" in lines[HANGS] and "-11" in lines[CRASHES] and "3" in lines[ENDS]
    assert (lines[0], lines[3], lines[IS_WRONG], lines[6]) == ("right 0", "right 3", "another word", "right 6")
    assert time.monotonic() - began < 100
