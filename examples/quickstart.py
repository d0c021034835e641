"""Tell an agent facts, and ask in the three modes. Run it twice: the second run finds what the first one was told."""

from deltamem_agents import DeltaMem

FACTS = ("My favourite colour is teal.", "Mara plays the cello.", "I live in Lisbon.")
QUESTIONS = ("What is my favourite colour?", "Which instrument does Mara play?", "Where do I live?")


def main() -> None:
    """Keep the memory in quickstart.db, in the present folder."""
    with DeltaMem.open("tiny", url="sqlite:///quickstart.db") as mem:
        agent = mem.agent("quickstart")
        if agent.log():
            print(f"{len(agent.log())} messages are remembered from an earlier run")
        else:
            agent.write([{"role": "user", "content": fact} for fact in FACTS])
        for question in QUESTIONS:
            print(question)
            for mode in ("state", "vector", "hybrid"):
                found = agent.recall(question, mode=mode)
                print(f"  {mode:7} {found.answer}  (from {found.source}, {found.usage.context_tokens} tokens of text)")


if __name__ == "__main__":
    main()
