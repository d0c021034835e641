"""Trains adapters for any supported backbone, and the bundled model from scratch.

May import memory and what is below it. What needs Accelerate (the extra ``train``) is imported on first use.
"""

from typing import TYPE_CHECKING

from deltamem_agents.libraries import imported_on_use
from deltamem_agents.training.adapter import AdapterRecipe, train_adapter
from deltamem_agents.training.backbone import BackboneRecipe, train_backbone
from deltamem_agents.training.backbones.config import BackboneTrainingConfig, read_stage
from deltamem_agents.training.backbones.measuring import Reading
from deltamem_agents.training.backbones.run import BackboneProgress, train_backbone_stage
from deltamem_agents.training.backbones.shape import BackboneShape
from deltamem_agents.training.evaluate import Score, evaluate
from deltamem_agents.training.everyday import EverydayScore, measure_everyday
from deltamem_agents.training.tiny import StageProgress, Trained, train_tiny
from deltamem_agents.training.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from deltamem_agents.training.adapters.card import TrainedAdapter
    from deltamem_agents.training.adapters.config import AdapterTrainingConfig, read_recipe, read_template, recipe_names
    from deltamem_agents.training.adapters.data import Data, open_data
    from deltamem_agents.training.adapters.memory_plan import MemoryPlan
    from deltamem_agents.training.adapters.progress import AdapterProgress
    from deltamem_agents.training.adapters.run import train_adapter_for
    from deltamem_agents.training.adapters.trainer import AdapterTrainer

__all__ = [
    "AdapterProgress",
    "AdapterRecipe",
    "AdapterTrainer",
    "AdapterTrainingConfig",
    "BackboneProgress",
    "BackboneRecipe",
    "BackboneShape",
    "BackboneTrainingConfig",
    "Data",
    "EverydayScore",
    "MemoryPlan",
    "Reading",
    "Score",
    "StageProgress",
    "Trained",
    "TrainedAdapter",
    "evaluate",
    "measure_everyday",
    "open_data",
    "read_recipe",
    "read_stage",
    "read_template",
    "recipe_names",
    "train_adapter",
    "train_adapter_for",
    "train_backbone",
    "train_backbone_stage",
    "train_tiny",
    "train_tokenizer",
]

__getattr__ = imported_on_use(
    __name__,
    {
        "AdapterProgress": "adapters.progress",
        "AdapterTrainer": "adapters.trainer",
        "AdapterTrainingConfig": "adapters.config",
        "Data": "adapters.data",
        "MemoryPlan": "adapters.memory_plan",
        "TrainedAdapter": "adapters.card",
        "open_data": "adapters.data",
        "read_recipe": "adapters.config",
        "read_template": "adapters.config",
        "recipe_names": "adapters.config",
        "train_adapter_for": "adapters.run",
    },
    extra="train",
)
