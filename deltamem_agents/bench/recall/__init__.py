"""What state and retrieval are worth, apart and together; ``deltamem bench recall`` runs it.

`facts`: generated facts among small talk, asked in six ways. `reliability`: what a confidence is worth. `locomo`:
retrieval on LoCoMo. `search`: its times. `report`: tables, JSON, the plot. `run`: all of it.
"""
