"""A proxy that answers one request, in a process of its own: prints what of the model libraries was imported."""

import json
import sys
import threading

import httpx

from deltamem_agents import DeltaMem
from deltamem_agents.serving import Settings, create_app
from deltamem_agents.serving.server import listen, server_for
from deltamem_agents.serving.settings import Upstream

with DeltaMem.open(None, url=sys.argv[1]) as mem, listen("127.0.0.1", 0) as listening:
    mem.agent("alice").write([{"role": "user", "content": "My favourite colour is teal."}])
    ready = threading.Event()
    app = create_app(mem, Settings(upstream=Upstream(url="http://127.0.0.1:9/v1"), agent="alice"))
    server = server_for(app, started=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    ready.wait(60)
    body = {"model": "m", "messages": [{"role": "user", "content": "What is my favourite colour?"}]}
    answer = httpx.post(f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat/completions", json=body)
    server.should_exit = True
    thread.join(60)
heavy = [each for each in ("torch", "transformers", "triton", "sentence_transformers") if each in sys.modules]
print(json.dumps({"status": answer.status_code, "heavy": heavy}))
