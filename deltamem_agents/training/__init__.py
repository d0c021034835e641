"""Trains adapters, and the bundled model from scratch. Generates its own data.

May import core (and so torch and transformers); nothing of engine, store or recall.
"""

from deltamem_agents.training.adapter import AdapterRecipe, train_adapter
from deltamem_agents.training.backbone import BackboneRecipe, train_backbone
from deltamem_agents.training.evaluate import Score, evaluate
from deltamem_agents.training.tiny import StageProgress, Trained, train_tiny
from deltamem_agents.training.tokenizer import train_tokenizer

__all__ = [
    "AdapterRecipe",
    "BackboneRecipe",
    "Score",
    "StageProgress",
    "Trained",
    "evaluate",
    "train_adapter",
    "train_backbone",
    "train_tiny",
    "train_tokenizer",
]
