"""How fast the inspector shows a journal of 10,000 messages, in Chromium: paints, layout shifts, searches.

Run as ``make bench-page``; writes a CSV, and checks that each page shows what it should before it times it.
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from deltamem_agents import DeltaMem
from deltamem_agents.serving import Settings, create_app
from deltamem_agents.serving.server import listen, server_for

MESSAGES = 10_000
SESSIONS = 100
RUNS = 20

# Chromium tells shifts and paints to observers; buffered ones tell what was before they were made.
SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  new PerformanceObserver((list) => { for (const each of list.getEntries()) sum += each.value; })
    .observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done(sum), 300);
})"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
ANSWER = "() => { const n = performance.getEntriesByType('navigation')[0]; return n.responseEnd - n.requestStart; }"


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with (
        tempfile.TemporaryDirectory() as folder,
        DeltaMem.open(None, url=f"sqlite:///{folder}/memory.db", embedder=False) as mem,
    ):
        for session in range(SESSIONS):
            texts = [
                f"note {session}-{i}: the {_word(session + i)} is in room {i}" for i in range(MESSAGES // SESSIONS)
            ]
            mem.agent("alice").write([{"role": "user", "content": each} for each in texts], f"s{session}")
        rows = _measured(mem)
    for row in rows:
        print(*row, sep="\t")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "median", "worst", "unit", "runs", "machine", "commit"])
        writer.writerows([*row, RUNS, platform.machine(), commit.stdout.strip()] for row in rows)


def _word(number: int) -> str:
    return ("lamp", "heron", "ladder", "kettle", "compass", "violin", "anchor")[number % 7]


def _measured(mem: DeltaMem) -> list[list[Any]]:
    listening, ready = listen("127.0.0.1", 0), threading.Event()
    server = server_for(create_app(mem, Settings(rate=0)), started=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    ready.wait(30)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            return _of_pages(browser, url)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _of_pages(browser: Any, url: str) -> list[list[Any]]:
    paints, answers, shifts, searches = list[float](), list[float](), list[float](), list[float]()
    for number in range(RUNS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})  # with an empty cache
        page = context.new_page()
        page.goto(f"{url}/inspect/alice")
        assert page.locator(".event").count() == 50
        paints.append(page.evaluate(PAINT))
        answers.append(page.evaluate(ANSWER))
        shifts.append(page.evaluate(SHIFTS))
        page.goto(f"{url}/inspect/alice/search?q={_word(number)}+room+{number}")
        assert page.locator(".hits li").count() > 0
        if number:  # the first reads the records into memory
            searches.append(page.evaluate(ANSWER))
        shifts.append(page.evaluate(SHIFTS))
        context.close()
    return [
        _row("journal: first contentful paint", paints, "ms"),
        _row("journal: answer of the server", answers, "ms"),
        _row("search: answer of the server", searches, "ms"),
        _row("layout shift", shifts, "score"),
    ]


def _row(what: str, found: list[float], unit: str) -> list[Any]:
    return [what, round(statistics.median(found), 4), round(max(found), 4), unit]


if __name__ == "__main__":
    main()
