"""What the integrations share: whose memory a call means, messages to and from the journal, what a reply says of it.

May import memory and what is below it; no framework. `langchain_deltamem` and `llama_index_deltamem` import it.
"""
