"""Adapter files: round trips, and one clear error for each way of being broken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltamem_agents.core import DeltaMemConfig, attach, backbone_fingerprint, load_adapter, new_adapter, save_adapter
from deltamem_agents.errors import AdapterFileError, ConfigError, DeltaMemError, UnsupportedModelError

CONFIG, WEIGHTS = "deltamem_adapter.json", "deltamem_adapter.safetensors"


@pytest.fixture
def saved(backbone, tmp_path):
    options = dict(heads=2, scale="correction", o_rmsnorm=True, layers=(0, 2), write="message", write_length=64)
    adapter = new_adapter(backbone(), DeltaMemConfig(**options))
    return save_adapter(adapter, tmp_path / "adapter")


@pytest.fixture
def theirs(golden_folder, tmp_path):
    return shutil.copytree(golden_folder / "qwen3-tsw" / "adapter", tmp_path / "theirs")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(saved, backbone):
    first = load_adapter(saved)
    assert sorted(each.name for each in saved.iterdir()) == [CONFIG, WEIGHTS]
    assert first.config.layers == (0, 2) and first.config.write_length == 64 and first.config.write == "message"
    assert all(each.requires_grad and each.dtype == torch.float32 for each in first.parameters())
    assert first.fingerprint() == new_adapter(backbone(), first.config).fingerprint()
    attach(backbone(), first).detach()


@pytest.mark.parametrize("keep", [0, 5, 100, -8])
def test_truncated_safetensors(saved, keep):
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterFileError, match=r"truncated or malformed.*fetch"):
        load_adapter(saved)


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_truncated_or_foreign_pt(theirs, keep):
    path = theirs / "delta_mem_adapter.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterFileError, match="not a plain tensor file"):
        load_adapter(theirs)


def test_nothing_is_unpickled(theirs):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model.layers.0.self_attn.memory_q_proj": Evil()}, theirs / "delta_mem_adapter.pt")
    with pytest.raises(AdapterFileError):
        load_adapter(theirs)


def test_missing_folder_files_and_malformed_json(saved, tmp_path):
    with pytest.raises(AdapterFileError, match="no adapter folder"):
        load_adapter(tmp_path / "nowhere")
    with pytest.raises(AdapterFileError, match="no adapter in"):
        load_adapter(tmp_path)
    (saved / WEIGHTS).rename(saved / "elsewhere")
    with pytest.raises(AdapterFileError, match="cannot read"):
        load_adapter(saved)
    (saved / CONFIG).write_text("{")
    with pytest.raises(AdapterFileError, match="cannot be read as JSON"):
        load_adapter(saved)
    (saved / CONFIG).write_text("[]")
    with pytest.raises(AdapterFileError, match="list"):
        load_adapter(saved)


def test_tensors_that_do_not_fit_the_config(saved):
    tensors = load_file(saved / WEIGHTS)
    for change, message in (
        ({"rank": 4}, "corrections.o"),
        ({"layers": [0, 1]}, "do not belong together"),
        ({"hidden_size": 64}, "the config says 64"),
        ({"scale": "layer"}, r"scale.*\(4,\).*\(1,\)"),
    ):
        before = (saved / CONFIG).read_text()
        edit(saved / CONFIG, **change)
        with pytest.raises(AdapterFileError, match=message):
            load_adapter(saved)
        (saved / CONFIG).write_text(before)
    save_file(tensors | {"layers.0.memory": tensors["layers.0.memory"] * float("nan")}, saved / WEIGHTS)
    with pytest.raises(AdapterFileError, match="NaN"):
        load_adapter(saved)
    save_file({name: each.to(torch.int32) for name, each in tensors.items()}, saved / WEIGHTS)
    with pytest.raises(AdapterFileError, match="I32"):
        load_adapter(saved)


def test_options_out_of_range_in_a_file(saved):
    for change in ({"rank": 1000}, {"colour": "red"}, {"version": 9}, {"layers": "all"}):
        before = (saved / CONFIG).read_text()
        edit(saved / CONFIG, **change)
        with pytest.raises(ConfigError):
            load_adapter(saved)
        (saved / CONFIG).write_text(before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_memory_partitions", 4),
        ("memory_write_granularity", "message_proposals"),
        ("memory_readout_mode", "synthetic_kv"),
        ("target_modules", ["mlp"]),
        ("delta_scale_parameterization", "free"),
        ("latent_memory_layers", [1]),
        ("something_new", True),
    ],
)
def test_author_options_we_do_not_have_are_named(theirs, option, value):
    edit(theirs / "delta_mem_config.json", **{option: value})
    with pytest.raises(UnsupportedModelError) as caught:
        load_adapter(theirs)
    assert option in str(caught.value) and repr(value) in str(caught.value)


def test_author_tensors_that_do_not_fit(theirs):
    path = theirs / "delta_mem_adapter.pt"
    tensors = torch.load(path, weights_only=True)
    bad = [
        ({**tensors, "lm_head.weight": torch.zeros(2)}, "not a tensor of an adapter"),
        ({name: each for name, each in tensors.items() if "layers.1.self_attn.beta_bias" not in name}, "layer 1 lacks"),
        ({name: each for name, each in tensors.items() if "layers.1." not in name}, r"layers \[0, 2\]"),
        ({**tensors, "model.layers.0.self_attn.memory_k_proj": torch.zeros(3, 48)}, "layer 0 lacks"),
        ({**tensors, "model.layers.0.self_attn.delta_q_proj": torch.zeros(64, 5)}, "corrections.q"),
    ]
    for content, message in bad:
        torch.save(content, path)
        with pytest.raises(DeltaMemError, match=message):
            load_adapter(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 65},
        {"rank": True},
        {"rank": 8.0},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"heads": 0},
        {"write": "word"},
        {"update": "other"},
        {"corrections": ()},
        {"corrections": ("q", "x")},
        {"corrections": ("q", "q")},
        {"corrections": ("q",), "o_rmsnorm": True},
        {"layers": ()},
        {"layers": (2, 1)},
        {"layers": (5,), "num_layers": 4},
        {"scale": "head"},
        {"scale_init": 3.0},
        {"couple_lambda": 1},
        {"write_length": 0},
        {"model_type": 3},
    ],
)
def test_config_names_the_value_it_refuses(options):
    with pytest.raises(ConfigError) as caught:
        DeltaMemConfig(**options)
    given = [str(value).strip("(),") for value in options.values()]
    assert any(value in str(caught.value) for value in given) or "o_rmsnorm" in options


def test_config_round_trip():
    config = DeltaMemConfig(corrections=("o", "k"), layers=(1, 4), write="sentence", answer_writes=True)
    assert config.corrections == ("k", "o")
    assert DeltaMemConfig.from_dict(json.loads(config.to_json())) == config


def test_backbone_fingerprint_sees_weights_dtype_and_vocabulary(backbone):
    class Vocabulary:
        def __init__(self, words):
            self.words = words

        def get_vocab(self):
            return self.words

    model, words = backbone(), Vocabulary({"a": 0, "b": 1})
    first = backbone_fingerprint(model, words)
    assert first == backbone_fingerprint(backbone(), words) and len(first) == 64
    attached = attach(model, new_adapter(model, DeltaMemConfig()))
    assert backbone_fingerprint(model, words) == first
    attached.detach()
    others = {backbone_fingerprint(model, Vocabulary({"a": 1, "b": 0})), backbone_fingerprint(backbone("llama"), words)}
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-3
    others |= {backbone_fingerprint(model, words), backbone_fingerprint(model.to(torch.bfloat16), words)}
    assert len(others | {first}) == 5
