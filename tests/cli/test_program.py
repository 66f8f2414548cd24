import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import errno, os, signal, sys, time
from scalpel_hf.cli.program import run_program

def main():
{body}

if __name__ == "__main__":
    run_program(main)
"""


def start(tmp_path: Path, body: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body="\n".join("    " + line for line in body.strip().split("\n"))))
    env = {**os.environ, **environment}
    return subprocess.Popen(
        [sys.executable, file, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(tmp_path: Path, body: str, *flags: str, **environment: str) -> tuple[int | None, str, str]:
    process = start(tmp_path, body, *flags, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def test_a_program_that_ends_well(tmp_path: Path) -> None:
    assert run(tmp_path, "print(sys.argv[1:])", "--debug", "a") == (0, "['a']\n", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("ValueError('two\\n lines')", "error: two lines"),
        ("FileNotFoundError(2, 'No such file', 'a.png')", "error: [Errno 2] No such file: 'a.png'"),
        ("KeyError('name')", "error: KeyError: 'name' (`--debug` shows where)"),
        ("ValueError()", "error: ValueError (`--debug` shows where)"),
        ("MemoryError()", "error: there is not enough memory"),
        ("ValueError('x' * 10000 + ' remedy')", f"error: {'x' * 1500} … {'x' * 493} remedy"),
        (
            "OSError(errno.ENOSPC, 'No space left', 'a')",
            "error: there is no room to write ([Errno 28] No space left: 'a'): make room, or choose another place",
        ),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, error: str, line: str) -> None:
    code, out, err = run(tmp_path, f"raise {error}")
    assert (code, out, err.strip()) == (1, "", line) and err.count("\n") == 1


def test_what_libraries_tell_developers_is_shown_with_debug(tmp_path: Path) -> None:
    body = "import warnings; warnings.warn('old', FutureWarning); warnings.warn('mine')"
    said = run(tmp_path, body)[2]
    assert said == "warning: mine\n"
    said = run(tmp_path, body, "--debug")[2]
    assert "program.py:6: FutureWarning: old" in said and "program.py:6: UserWarning: mine" in said


def test_debug_shows_where(tmp_path: Path) -> None:
    code, _, err = run(tmp_path, "raise ValueError('wrong')", "--debug")
    assert code == 1 and "Traceback" in err and "program.py" in err and err.endswith("\nerror: wrong\n")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_cleans_up_and_says_so(tmp_path: Path, sent: signal.Signals) -> None:
    body = """
try:
    open("begun", "w").close()
    time.sleep(60)
finally:
    open("cleaned", "w").close()"""
    begun = tmp_path / "begun"
    process = start(tmp_path, f"os.chdir({str(tmp_path)!r}){body}")
    while not begun.exists():
        time.sleep(0.02)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    word, code = ("interrupted", 130) if sent == signal.SIGINT else ("terminated", 143)
    assert (process.returncode, out, err.decode().strip()) == (code, b"", word)
    assert (tmp_path / "cleaned").exists()


def test_a_process_that_it_forks_runs_nothing_of_it_when_terminated(tmp_path: Path) -> None:
    body = """
child = os.fork()
try:
    if not child:
        time.sleep(60)
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
finally:
    print("cleaned", os.getpid() == parent)"""
    assert run(tmp_path, f"parent = os.getpid(){body}") == (0, "cleaned True\n", "")


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "cp1251"}],
)
def test_output_is_utf_8_whatever_the_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    body = "print('3 × █ \\udcff'); raise ValueError('ä × █')"
    assert run(tmp_path, body, **environment) == (1, "3 × █ \\udcff\n", "error: ä × █\n")


def test_who_reads_the_output_may_go(tmp_path: Path) -> None:
    process = start(tmp_path, "for i in range(10**6): print(i)")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141
