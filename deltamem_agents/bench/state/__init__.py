"""Measures what the state does, with proof of cause; ``deltamem bench recall`` runs it.

Episodes of standing rules and of facts are told to agents of a memory, and asked about in several ways (`tasks`,
`telling`, `asking`). The same is asked again with other states in place of the right one (`controls`), and what the
state costs where it should do nothing is measured (`cost`). `shares` and `intervals` turn replies into figures with
intervals, `report` writes them, `run` does all of it. May import training for its episodes.
"""
