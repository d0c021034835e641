"""Find and load a backbone, its tokenizer and its adapter.

A process that was forked from one that ran a model computes with one thread: OpenMP's threads do not exist in the
child, and GNU's library waits for them forever once the thread that forked runs a large computation.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from deltamem_agents import arguments
from deltamem_agents.core import FAMILIES, Adapter, load_adapter
from deltamem_agents.engine.packaged import NAMED, adapter_of, folder_of
from deltamem_agents.errors import (
    BackboneFileError,
    ConfigError,
    ForkedError,
    MissingExtraError,
    UnsupportedModelError,
)
from deltamem_agents.libraries import without_progress_bars

log = logging.getLogger(__name__)

_settled: list[int] = []  # ids of processes that ran models, each forked from the one before
_QUANTIZATIONS = {"int8": "bitsandbytes", "int4": "bitsandbytes", "int8-torchao": "torchao"}
_HUB_ID = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)?")  # "name" or "owner/name"; anything else is a path
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A backbone in evaluation mode, its tokenizer and the adapter trained for it."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: Adapter


def load(
    backbone: str | Path = "tiny",
    adapter: str | Path | Adapter | None = None,
    *,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    attention: str | None = None,
) -> Loaded:
    """Load what `Engine` needs.

    Args:
        backbone: "tiny", "gemma-3-270m", a folder, or a hub id; ignored if a loaded ``model`` is given.
        adapter: A folder or hub id; by default the folder ``adapter`` inside the backbone's.
        model: A loaded model, with its ``tokenizer``; it stays on its device and in its dtype.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:n".
        dtype: "auto" (as stored on a GPU, float32 on a CPU), "float32", "bfloat16" or "float16".
        quantization: "int8" or "int4" with bitsandbytes, or "int8-torchao"; None for none.
        attention: Transformers' ``attn_implementation`` ("sdpa", "eager", "flash_attention_2", …); its own by default.

    Raises:
        ConfigError: A model without its tokenizer, an unknown device, dtype or quantization, or no adapter.
        MissingExtraError: The quantization's library is not installed.
        BackboneFileError: The backbone is not found, truncated or malformed.
        UnsupportedModelError: The backbone's family is unknown, or the adapter uses an unsupported option.
        AdapterFileError: The adapter is not found or invalid.
        ForkedError: The device is a GPU that the parent of this process has used.
    """
    settle_after_fork()
    check_loading(backbone, adapter, model, tokenizer, device, dtype, quantization, attention)
    if model is None:
        _check_place(backbone, adapter)
    if adapter is None:
        adapter = adapter_of(backbone)
        if model is not None or not adapter.is_dir():
            source = "a loaded model" if model is not None else f"backbone {str(backbone)!r}"
            train = f"; 'deltamem train adapter --backbone {backbone}' trains one" if str(backbone) in NAMED else ""
            raise ConfigError(
                f"{source} comes without an adapter; name the one trained for it: adapter='folder or hub id'{train}"
            )
    if model is None or tokenizer is None:
        folder = folder_of(backbone)
        source = str(folder) if folder.is_dir() else str(backbone)
        model, tokenizer = load_backbone(source, device, dtype, quantization, attention)
    loaded = load_adapter(adapter) if isinstance(adapter, str | Path) else adapter
    if loaded.chat_template is not None:  # what it was trained with
        tokenizer = copy.deepcopy(tokenizer)  # which may be the caller's
        tokenizer.chat_template = loaded.chat_template
    model.eval()  # type: ignore[no-untyped-call]
    return Loaded(str(backbone), model, tokenizer, loaded)


def _check_place(backbone: str | Path, adapter: object) -> None:
    """Refuse a missing folder before it is taken for a hub id.

    Raises:
        BackboneFileError: The backbone is neither a folder nor a hub id, or may be a hub id but no adapter was named.
    """
    text = str(backbone)
    if backbone == "tiny" or text in NAMED or Path(backbone).is_dir():
        return
    if Path(backbone).exists():
        raise BackboneFileError(f"backbone {text!r} is a file; give the folder with the model's config.json")
    if not isinstance(backbone, str) or not _HUB_ID.fullmatch(text):
        raise BackboneFileError(f"there is no folder {text!r}; give 'tiny', an existing folder, or a hub id")
    if adapter is None:
        raise BackboneFileError(
            f"there is no folder {text!r}; if this is a hub id, name the adapter trained for it: "
            "adapter='folder or hub id'"
        )


def check_loading(
    backbone: object,
    adapter: object,
    model: object,
    tokenizer: object,
    device: object,
    dtype: object,
    quantization: object,
    attention: object,
) -> None:
    """Check the arguments of `load` without reading any file.

    Raises:
        ConfigError: An argument is invalid.
    """
    if (model is None) != (tokenizer is None):
        raise ConfigError("give a loaded model together with its tokenizer, or neither")
    arguments.instance(model, "model", PreTrainedModel, optional=True)
    arguments.instance(tokenizer, "tokenizer", PreTrainedTokenizerBase, optional=True)
    if model is None:
        arguments.path(backbone, "backbone")
    if adapter is not None and not isinstance(adapter, Adapter):
        arguments.path(adapter, "adapter")
    arguments.text(device, "device")
    arguments.one_of(dtype, "dtype", ("auto", *_DTYPES))
    if quantization is not None:
        arguments.one_of(quantization, "quantization", _QUANTIZATIONS)
    if attention is not None:
        arguments.text(attention, "attention")


def load_backbone(
    source: str,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a backbone and its tokenizer without an adapter, from a folder or hub id; arguments as in `load`.

    Raises:
        ConfigError, MissingExtraError, BackboneFileError, UnsupportedModelError, ForkedError: See `load`.
    """
    place = _device(device)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if quantization is not None:
        options |= {"quantization_config": quantization_config(quantization), "device_map": {"": str(place)}}
    kind: Any = (
        "auto" if dtype == "auto" and place.type == "cuda" else _DTYPES.get("float32" if dtype == "auto" else dtype)
    )
    if kind is None:
        raise ConfigError(f"dtype {dtype!r} is not one of auto, {', '.join(_DTYPES)}")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in FAMILIES:
            raise UnsupportedModelError(
                f"backbone {source!r} is of family {config.model_type!r}; known are {', '.join(sorted(FAMILIES))}"
            )
        # Code in a model's folder never runs, and no one is prompted: by default transformers asks on standard input.
        # The model is loaded on the CPU whatever the default device is; a quantisation places its own.
        with torch.device("cpu") if quantization is None else nullcontext(), without_progress_bars():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=kind, use_safetensors=True, trust_remote_code=False, **options
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except UnsupportedModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, SafetensorError and bare Exceptions here
        raise BackboneFileError(
            f"backbone {source!r} cannot be loaded ({_first_line(error)}); give 'tiny', a folder with a "
            "Hugging Face model in safetensors, or a hub id that this machine can reach"
        ) from error
    if quantization is None:
        try:
            model.to(place)  # type: ignore[arg-type]
        except RuntimeError as error:
            if _in_forked_process(error):
                raise ForkedError(
                    "this process was forked from one that had used CUDA, and cannot use it; start workers with "
                    "'spawn', open nothing on the GPU before the fork, or give device='cpu'"
                ) from error
            raise
    return model, tokenizer


def quantization_config(name: str) -> Any:
    """Transformers' configuration for a quantization.

    Raises:
        ConfigError: The quantization is unknown.
        MissingExtraError: Its library is not installed.
    """
    library = _QUANTIZATIONS[arguments.one_of(name, "quantization", _QUANTIZATIONS)]
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(f"quantization {name!r} needs {library}, which is not installed; pip install {library}")
    if library == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=name == "int8", load_in_4bit=name == "int4")  # type: ignore[no-untyped-call]
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda, cuda:0, …") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch sees no GPU here; use device='cpu'")
    return device


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def settle_after_fork() -> None:
    """Limit torch to one thread if the parent process ran a model; call before loading a model or making an engine."""
    here = os.getpid()
    if _settled and here not in _settled:
        torch.set_num_threads(1)
        log.info("torch computes with one thread in process %d, which was forked from one that ran a model", here)
    if here not in _settled:
        _settled.append(here)


def _in_forked_process(error: Exception) -> bool:
    """Whether this is CUDA's error in a child of a process that has used CUDA."""
    return isinstance(error, RuntimeError) and "forked subprocess" in str(error)
