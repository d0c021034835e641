"""Measures state and retrieval, separately and together; ``deltamem bench recall`` runs it.

`facts`: generated facts among small talk, asked in six ways. `reliability`: how far confidences can be trusted.
`locomo`, `beam`: retrieval on LoCoMo and BEAM. `search`: its times. `report`: tables, JSON, the plot. `run`: all of it.
"""
