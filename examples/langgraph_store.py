"""A LangGraph store that lasts: values by namespace and key, found by what they say.

    python examples/langgraph_store.py [--url sqlite:///memory.db]

Needs no key and no network. Run it again with the same ``--url``, and everything is still there.
"""

import argparse
import tempfile

from deltamem_agents import DeltaMem
from langchain_deltamem import DeltaMemStore


def main() -> None:
    """Put, search, filter, let expire, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="SQLAlchemy URL of the database; a temporary one by default")
    url = parser.parse_args().url

    with tempfile.TemporaryDirectory() as folder, DeltaMem.open(url=url or f"sqlite:///{folder}/memory.db") as mem:
        store = DeltaMemStore(mem)
        alice = ("users", "alice")
        store.put(alice, "drink", {"text": "Alice drinks green tea.", "kind": "taste", "weight": 2})
        store.put(alice, "dog", {"text": "The dog of Alice is called Rex.", "kind": "family", "weight": 5})
        store.put(("users", "bob"), "drink", {"text": "Bob drinks coffee.", "kind": "taste", "weight": 1})
        store.put(alice, "code", {"text": "The door code of today is 4417."}, ttl=60 * 24)  # minutes

        for item in store.search(("users",), query="What does Alice drink?", limit=1):
            print("best:", item.namespace, item.key, item.value["text"])
        print("heavy:", [item.key for item in store.search(alice, filter={"weight": {"$gte": 3}})])
        print("namespaces:", store.list_namespaces(prefix=("users",)))

        store.delete(alice, "dog")  # erased, in every version
        print("dog:", store.get(alice, "dog"))


if __name__ == "__main__":
    main()
