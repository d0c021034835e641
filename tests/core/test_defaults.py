"""Results do not depend on torch's default device and dtype: what a program sets for itself is its own affair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deltamem_agents.core import Adapter, DeltaMemConfig, attach, load_adapter, new_adapter, save_adapter
from deltamem_agents.store.codec import decode, encode
from deltamem_kernels import delta_scan
from deltamem_kernels.cpu import compiled, products


# "meta" holds no numbers: what lands there by mistake cannot give a right result.
@pytest.fixture(params=["meta", torch.float64, torch.bfloat16], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Sets an odd default, when called; it is undone after the test."""

    def odd() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(request.param)

    yield odd
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float32)


@pytest.mark.skipif(bool(compiled.unavailable()), reason="the compiled library was not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 130])
def test_products(default: Callable[[], None], dtype: torch.dtype, rows: int) -> None:
    x, weight = numbers(rows, 64).to(dtype), numbers(1100, 64, seed=1).to(dtype)
    expected = products.product(x, weight)
    default()
    result = products.product(x, weight)
    assert (result.device.type, result.dtype) == ("cpu", dtype) and torch.equal(result, expected)


@pytest.mark.parametrize("backend", ["auto", "naive", "chunked"])
def test_scans(default: Callable[[], None], backend: str) -> None:
    sizes = (3, 17, 8)
    given = [numbers(*sizes, seed=seed) for seed in range(3)] + [numbers(*sizes, seed=s).sigmoid() for s in range(3)]
    state = numbers(3, 8, 8, seed=9)
    expected = delta_scan(*given, state, backend=backend)
    default()
    for result, wanted in zip(delta_scan(*given, state, backend=backend), expected, strict=True):
        assert (result.device.type, result.dtype) == ("cpu", torch.float32) and torch.equal(result, wanted)


@pytest.mark.parametrize("write", ["token", "sentence"])
def test_forwards_and_files(
    default: Callable[[], None], backbone: Callable[..., nn.Module], tmp_path: Path, write: Any
) -> None:
    model = backbone("qwen3")
    config = DeltaMemConfig(rank=4, write=write, o_rmsnorm=True, scale="layer")
    expected = new_adapter(model, config)
    ids = torch.arange(1, 21).view(2, 10)
    spans = {"sentence_ids": ids // 4, "message_ids": ids * 0}

    def states(adapter: Adapter) -> dict[str, Tensor]:
        attached = attach(model, adapter)
        try:
            with torch.no_grad():
                return attached.forward(input_ids=ids, **spans)[1]
        finally:
            attached.detach()

    before = states(expected)
    default()
    made = new_adapter(model, config)
    read = load_adapter(save_adapter(made, tmp_path))
    assert made.fingerprint() == read.fingerprint() == expected.fingerprint()
    assert {each.dtype for each in made.state_dict().values()} == {torch.float32}
    after = states(read)
    for name, tensor in after.items():
        assert tensor.dtype is torch.float32 and torch.equal(tensor, before[name])
    one = {name: tensor[0] for name, tensor in after.items()}
    back = decode(encode(one))
    assert all(torch.equal(back[name], tensor) and back[name].device.type == "cpu" for name, tensor in one.items())
