"""What state and retrieval are worth, apart and together; ``deltamem bench recall`` runs it.

`facts`: generated facts among small talk, asked in five ways. `reliability`: what a confidence is worth. `locomo`:
retrieval on LoCoMo. `report`: tables, JSON, the plot. `run`: all of it.
"""
