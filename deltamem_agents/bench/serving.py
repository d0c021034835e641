"""What serving costs: the time to the first token that a proxy adds, and tokens a second through HTTP.

    python -m deltamem_agents.bench.serving --out docs/benchmarks/serving-cpu.csv

The proxy runs `deltamem serve --upstream` with words alone, before an endpoint that answers at once; its agent has
10,000 messages. Requests go to the endpoint and to the proxy in turn, and the difference of each pair counts. Through
HTTP, eight clients ask a server with the bundled model; without, eight threads ask the same model's engine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

from deltamem_agents import DeltaMem
from deltamem_agents.bench.figures import Figure, figure, machine, table, write_csv
from deltamem_agents.bench.outputs import add_output, parsed

MESSAGES = 10_000
SESSION = 40  # messages
ROUNDS, WARM = 200, 20
CLIENTS, TOKENS, REPEATS = 8, 128, 5
THINGS = ("ladder", "spare key", "lamp", "blue paint", "old bicycle", "box of screws", "tent", "saw", "kettle")
PLACES = ("cellar", "hall seven", "attic", "shed", "garage", "locker at the station", "boat")
ENDPOINT = Path(__file__).with_name("endpoint.py")


def said(number: int) -> list[dict[str, str]]:
    """One turn of the journal."""
    thing, place = THINGS[number % len(THINGS)], PLACES[number % len(PLACES)]
    return [
        {"role": "user", "content": f"I put the {thing} into the {place} and wrote shelf {number} on it, in May."},
        {"role": "assistant", "content": f"Noted. Shelf {number} it is; tell me when it is to be fetched again."},
    ]


class Server(str):
    """The address of a server, and its process."""

    def __new__(cls, address: str, pid: int) -> Self:  # noqa: D102  # see the class
        made = super().__new__(cls, address)
        made.pid = pid
        return made

    pid: int

    def seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(*command: str) -> Iterator[Server]:
    """A server in a process of its own; its address ends the last line on stderr."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            line = ""
            while "http://" not in line:
                line = running.stderr.readline()
                if not line:
                    raise SystemExit(f"{' '.join(command)} does not start")
            yield Server(line.split()[-1], running.pid)
        finally:
            running.terminate()
            running.wait()


def served(url: str, *options: str) -> Any:
    """`deltamem serve` on a database."""
    return process("-m", "deltamem_agents.cli", "serve", "--port", "0", "--url", url, *options)


def first_token(client: httpx.Client, base: str, question: str) -> float:
    """Seconds until the first piece of a streamed reply."""
    body = {"model": "m", "stream": True, "user": "long", "messages": [{"role": "user", "content": question}]}
    began, first = time.perf_counter(), 0.0
    with client.stream("POST", f"{base}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"status {response.status_code}: only correct results are timed")
        for line in response.iter_lines():
            if line and not first:
                first = time.perf_counter() - began
    return first


def proxy(folder: Path, rounds: int) -> Iterator[Figure]:
    """The time to the first token that the proxy adds."""
    url = f"sqlite:///{folder}/proxy.db"
    with DeltaMem.open(None, url=url) as mem:
        for start in range(0, MESSAGES // 2, SESSION // 2):
            turns = [each for number in range(start, start + SESSION // 2) for each in said(number)]
            mem.store.append("long", turns, f"s{start}")
    numbers = np.random.default_rng(2).integers(0, MESSAGES // 2, rounds + WARM).tolist()
    added, bare = [], []
    with (
        process(str(ENDPOINT)) as upstream,
        served(url, "--upstream", f"{upstream}/v1") as own,
        httpx.Client() as client,
    ):
        first_token(client, own, "What is on shelf 77?")
        received = client.get(f"{upstream}/last").text
        if "shelf 77 " not in received:
            raise SystemExit("memory is not in the prompt: only correct results are timed")
        used = 0.0
        for place, number in enumerate(numbers):
            used = own.seconds() if place == WARM else used
            question = f"What did I write shelf {number} on?"
            times = {
                base: first_token(client, base, question) for base in ((own, upstream), (upstream, own))[place % 2]
            }
            if place >= WARM:
                added.append(1e3 * (times[own] - times[upstream]))
                bare.append(1e3 * times[upstream])
        time.sleep(1)  # the last turn is being indexed
        used = own.seconds() - used
    on = f"{MESSAGES:,} messages, words only"
    yield figure("first token through the proxy, added to the bare upstream's, median", on, added, "ms", "≤ 25")
    p95 = float(np.quantile(added, 0.95))
    yield figure("the same, 95th percentile", on, [p95], "ms", "≤ 60")
    each = 1e3 * used / rounds
    yield figure("processor time of a whole turn in the proxy, with journalling it", on, [each], "ms")
    yield figure("first token of the bare upstream", on, bare, "ms")


def backbone(folder: Path) -> Iterator[Figure]:
    """Tokens a second of eight clients through HTTP, relative to eight threads that ask an engine."""
    from deltamem_agents.engine.generation import Sampling

    with DeltaMem.open("tiny", url=f"sqlite:///{folder}/direct.db", embedder=False) as mem:
        ids = mem.engine.tokenizer.encode("Hello")
        sampling = Sampling(max_tokens=TOKENS)

        def direct() -> int:
            return len(mem.engine.generate(ids, None, sampling=sampling).result().ids)

        with served(f"sqlite:///{folder}/served.db", "--embedder", "none") as own, httpx.Client(timeout=600) as client:
            body = {"model": mem.engine.name, "prompt": "Hello", "max_tokens": TOKENS, "user": "alice"}

            def through() -> int:
                answer = client.post(f"{own}/v1/completions", json=body)
                return int(answer.json()["usage"]["completion_tokens"])

            if direct() != through():
                raise SystemExit("the two do not generate the same: only correct results are timed")
            ratios, rates = [], []
            for number in range(REPEATS):
                pair = {each: rate(each) for each in ((direct, through), (through, direct))[number % 2]}
                ratios.append(pair[through] / pair[direct])
                rates.append(pair[direct])
    on = f"bundled model, {CLIENTS} clients, {TOKENS} tokens each"
    yield figure("tokens a second through HTTP, relative to the engine called directly", on, ratios, "×", "≥ 0.9")
    yield figure("tokens a second of the engine called directly", on, rates, "/s")


def rate(call: Callable[[], int]) -> float:
    """Tokens a second of `CLIENTS` threads that make a call at once."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        began = time.perf_counter()
        tokens: Sequence[int] = list(threads.map(lambda _: call(), range(CLIENTS)))
        return sum(tokens) / (time.perf_counter() - began)


def main() -> None:
    """Measure, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    add_output(parser)
    chosen = parsed(parser)
    with tempfile.TemporaryDirectory() as folder:
        figures = [*proxy(Path(folder), chosen.rounds), *backbone(Path(folder))]
    facts = machine()
    print(table(figures, facts))
    if chosen.out is not None:
        write_csv(chosen.out, figures, facts)


if __name__ == "__main__":
    main()
