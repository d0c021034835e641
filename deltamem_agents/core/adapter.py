"""An adapter: the trained layers for one backbone, and their identity. Files are in ``files``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from deltamem_agents import arguments
from deltamem_agents.core.calibration import Calibration
from deltamem_agents.core.config import DeltaMemConfig
from deltamem_agents.core.families import Backbone, LayerShape, inspect_backbone
from deltamem_agents.core.layer import AdapterLayer
from deltamem_agents.core.state import State, state_key
from deltamem_agents.errors import AdapterMismatchError, ConfigError, UnsupportedModelError


class Adapter(nn.Module):
    """Trainable δ-mem layers.

    Args:
        config: Must have ``hidden_size`` set.
        shapes: Widths of each adapted layer, by layer number.
    """

    def __init__(self, config: DeltaMemConfig, shapes: Mapping[int, LayerShape]) -> None:
        super().__init__()
        self.config = config
        self.calibration = Calibration()  # not part of the identity: states do not depend on it
        self.chat_template: str | None = None  # for a backbone without one; states depend on it through the rendering
        self.layer_indices = tuple(sorted(shapes))
        self.layers = nn.ModuleDict({str(index): AdapterLayer(config, shapes[index]) for index in self.layer_indices})

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the state's modules, in layer order."""
        return tuple(state_key(index) for index in self.layer_indices)

    def layer(self, index: int) -> AdapterLayer:
        """The adapted layer with that number."""
        return cast(AdapterLayer, self.layers[str(index)])

    def zero_state(self, batch: int) -> State:
        """State of an agent without any messages, ``batch`` rows, each layer on its own device."""
        return {
            state_key(index): torch.zeros(
                batch, *self.config.state_shape, dtype=torch.float32, device=self.layer(index).memory.device
            )
            for index in self.layer_indices
        }

    def state_bytes(self) -> int:
        """Size of one agent's state in float32, in bytes."""
        return 4 * len(self.layer_indices) * self.config.width * self.config.rank

    def fingerprint(self) -> str:
        """Hex sha256 of config and weights; the same before saving and after loading."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {list(tensor.shape)}\n".encode())
            digest.update(raw_bytes(tensor.float()))
        return digest.hexdigest()

    def check_fits(self, backbone: Backbone) -> None:
        """Check that the adapter fits a loaded model.

        Raises:
            AdapterMismatchError: The model has another family, depth or width.
        """
        config, depth = self.config, len(backbone.attentions)
        remedy = "load the backbone this adapter was trained for"
        if config.model_type is not None and config.model_type != backbone.family.model_type:
            raise AdapterMismatchError(
                f"adapter is for {config.model_type!r}, the model is {backbone.family.model_type!r}; {remedy}"
            )
        if (config.num_layers is not None and config.num_layers != depth) or self.layer_indices[-1] >= depth:
            wanted = config.num_layers or f"at least {self.layer_indices[-1] + 1}"
            raise AdapterMismatchError(f"adapter is for {wanted} layers, the model has {depth}; {remedy}")
        for index in self.layer_indices:
            shape, layer = backbone.shapes[index], self.layer(index)
            sizes = {"input": (layer.memory.shape[1], shape.hidden)}
            sizes |= {name: (weight.shape[0], shape.outputs[name]) for name, weight in layer.corrections.items()}
            for name, (ours, theirs) in sizes.items():
                if ours != theirs:
                    raise AdapterMismatchError(
                        f"layer {index}: adapter has {name} width {ours}, the model {theirs}; {remedy}"
                    )


def new_adapter(model: nn.Module, config: DeltaMemConfig, seed: int = 0) -> Adapter:
    """A freshly initialised adapter for a loaded model, on the model's device, float32, trainable.

    Args:
        config: Backbone facts left at None are filled in from the model.
        seed: The same seed gives the same weights.

    Raises:
        UnsupportedModelError: The family is unknown, or the weights that corrections start from are quantised.
        ConfigError: ``config.layers`` names a layer that the model does not have, or an argument has the wrong type.
        AdapterMismatchError: ``config`` is for another backbone.
    """
    arguments.instance(config, "config", DeltaMemConfig)
    arguments.whole(seed, "seed", -(1 << 63), (1 << 64) - 1)
    backbone = inspect_backbone(model)
    depth = len(backbone.attentions)
    indices = range(depth) if config.layers is None else config.layers
    if max(indices) >= depth:
        raise ConfigError(f"layers names layer {max(indices)}; the model has layers 0 to {depth - 1}")
    filled = replace(
        config,
        hidden_size=config.hidden_size or backbone.hidden_size,
        num_layers=config.num_layers or depth,
        model_type=config.model_type or backbone.family.model_type,
    )
    if filled.hidden_size != backbone.hidden_size:
        raise AdapterMismatchError(
            f"config is for width {filled.hidden_size}, the model has {backbone.hidden_size}; leave hidden_size out"
        )
    with torch.device("cpu"):  # the generator is on the CPU, whatever the default device is
        adapter = Adapter(filled, {index: backbone.shapes[index] for index in indices})
    adapter.check_fits(backbone)
    generator = torch.Generator().manual_seed(seed)
    for index in adapter.layer_indices:
        weights = {name: _base_weight(backbone, index, name) for name in filled.corrections}
        adapter.layer(index).initialise(weights, generator)
    place(adapter, backbone)
    return adapter


def place(adapter: Adapter, backbone: Backbone) -> None:
    """Move each adapted layer to the device of its attention module's parameters."""
    for index in adapter.layer_indices:
        if not _placed(adapter, backbone, index):
            adapter.layer(index).to(next(backbone.attentions[index].parameters()).device)


def placed(adapter: Adapter, backbone: Backbone) -> bool:
    """Whether the first and last adapted layers are where `place` puts them, as they are until a model is moved."""
    return all(_placed(adapter, backbone, index) for index in {adapter.layer_indices[0], adapter.layer_indices[-1]})


def _placed(adapter: Adapter, backbone: Backbone, index: int) -> bool:
    device = next(backbone.attentions[index].parameters()).device
    return device.type == "meta" or adapter.layer(index).memory.device == device


def raw_bytes(tensor: Tensor) -> bytes:
    """The tensor's contents as bytes, row-major."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _base_weight(backbone: Backbone, index: int, name: str) -> Tensor:
    """Weight rows [out, in] of one projection on the CPU, cut from the packed weight if there is one."""
    attention, shape = backbone.attentions[index], backbone.shapes[index]
    packed = backbone.family.packed and name != "o"
    module = attention.get_submodule("qkv_proj" if packed else f"{name}_proj")
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise UnsupportedModelError(
            f"layer {index} has quantised {name} weights; start the adapter from the unquantised backbone"
        )
    if packed:
        widths = [shape.outputs[each] for each in ("q", "k", "v")]
        weight = torch.split(weight, widths)[("q", "k", "v").index(name)]
    return weight.detach().cpu()
