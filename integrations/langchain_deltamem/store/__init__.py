"""`DeltaMemStore`: LangGraph's store on an agent's journal. May import memory and what is below it, and LangGraph."""

from langchain_deltamem.store.store import DeltaMemStore

__all__ = ["DeltaMemStore"]
