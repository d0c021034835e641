"""Shared by the integrations: the agent a call names, conversion of messages to and from the journal, reply metadata.

May import `memory` and the layers below it, but no framework. `langchain_deltamem` and `llama_index_deltamem` import
it.
"""
