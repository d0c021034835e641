"""``deltamem guidelines sync --watch`` as a user runs it: edits are noticed, and Ctrl-C ends it."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("watchfiles")

SECONDS = 60  # for a line to come, on a machine that is busy with other tests


class Watch:
    """The command as a process, whose lines are waited for."""

    def __init__(self, tree, url: str) -> None:
        command = [
            sys.executable,
            "-m",
            "deltamem_agents.cli",
            "guidelines",
            "sync",
            "--watch",
            str(tree),
            "--url",
            url,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self._buffer = b""

    def line(self) -> str:
        assert self.process.stdout is not None
        until = time.monotonic() + SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(until - time.monotonic()), f"no line within {SECONDS} s"
                read = os.read(self.process.stdout.fileno(), 4096)
                assert read, f"the command ended: {self.process.communicate()[1].decode()}"
                self._buffer += read
        first, _, self._buffer = self._buffer.partition(b"\n")
        return first.decode()


def test_edits_and_commits_are_noticed_until_ctrl_c(tree, tmp_path):
    tree.commit("Start", {"AGENTS.md": "- Run `make check` before every commit.\n"})
    watch = Watch(tree.root, f"sqlite:///{tmp_path / 'memory.db'}")
    try:
        assert watch.line() == "1 rule: 1 added, 1 commit recorded"
        tree.write({"unrelated.txt": "no rule", "web/AGENTS.md": "- Use two spaces.\n"})
        assert watch.line() == "2 rules: 1 added"
        tree.commit("Two spaces")
        assert watch.line().endswith("1 commit recorded")
        (tree.root / "web/AGENTS.md").unlink()
        assert watch.line() == "1 rule: 1 removed"
        for part in ("one", "two", "three"):  # a folder with rules comes and goes as a whole
            tree.write({f"{part}/deep/AGENTS.md": "- Use tabs.\n"})
            assert watch.line() == "2 rules: 1 added"
            (tree.root / part).rename(tmp_path / part)
            assert watch.line() == "1 rule: 1 removed"
        watch.process.send_signal(signal.SIGINT)
        _, err = watch.process.communicate(timeout=SECONDS)
    finally:
        watch.process.kill()
        watch.process.wait()
    assert b"Traceback" not in err
    assert watch.process.returncode == 130
