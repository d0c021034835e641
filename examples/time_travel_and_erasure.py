"""Take things back: try a future in a fork, roll back, and erase a message from the journal, the state and the files.

python examples/time_travel_and_erasure.py [--url sqlite:///memory.db]
"""

import argparse
import tempfile

from deltamem_agents import DeltaMem
from deltamem_agents.memory import AgentMemory


def told(agent: AgentMemory) -> None:
    """What an agent remembers."""
    print(f"{agent.id:8}", *(f"{entry.position}: {entry.content}" for entry in agent.log()), sep="  ")


def main() -> None:
    """Write, fork, roll back, erase, and look at the receipt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="SQLAlchemy URL of the database; a temporary one by default")
    url = parser.parse_args().url

    with tempfile.TemporaryDirectory() as folder, DeltaMem.open(url=url or f"sqlite:///{folder}/memory.db") as mem:
        agent = mem.agent("desk")
        agent.write([{"role": "user", "content": "We indent with two spaces."}])
        agent.write([{"role": "user", "content": "The door code is 4711.", "id": "code"}])

        draft = agent.fork("draft")
        draft.write([{"role": "user", "content": "We indent with tabs."}])
        told(draft)
        draft.rollback(1)
        told(draft)

        receipt = agent.erase(ids=["code"], forks=True)
        told(agent)
        print("drift from an agent that never saw it:", agent.verify().worst)
        print(receipt.json())
        draft.delete()
        agent.delete()


if __name__ == "__main__":
    main()
