"""The bundled model: a small causal LM, its tokenizer and its adapter, trained by this project. See MODEL_CARD.md.

Nothing but files; imports nothing.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
