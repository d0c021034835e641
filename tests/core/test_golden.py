"""Agreement with the traces of the authors' implementation: 1e-5 on logits and states, however they are computed."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from deltamem_agents.core import attach, load_adapter, save_adapter

CASES = [
    "qwen3-tsw",
    "qwen3-msw",
    "qwen3-ssw-message",
    "qwen3-ssw-sentence",
    "smollm3-tsw-qkvo",
    "qwen3-lambda-outside-r4",
    "qwen3-no-lambda-layers",
]
LIMIT = 1e-5
CACHES = {
    "none": lambda config: None,
    "dynamic": lambda config: DynamicCache(config=config),
    "static": lambda config: StaticCache(config=config, max_cache_len=40),
}


@pytest.fixture(params=["eager", "sdpa"])
def attention(request):
    return request.param


@pytest.fixture
def attached(case, attention, golden_model, golden_folder):
    attached = attach(golden_model(case, attention), load_adapter(golden_folder / case / "adapter"))
    yield attached
    attached.detach()


def spans_of(trace, session, rows=slice(None), columns=slice(None)):
    names = ("message_ids", "sentence_ids")
    return {name: trace[f"{session}.{name}"][rows, columns] for name in names if f"{session}.{name}" in trace}


def state_of(trace, prefix, rows=slice(None)):
    start = f"{prefix}.state."
    return {name.removeprefix(start): each[rows] for name, each in trace.items() if name.startswith(start)}


def check_state(state, wanted, relative):
    assert state.keys() == wanted.keys()
    for key, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert relative(tensor, wanted[key]) < LIMIT, key


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_padded_batch_decode_and_read_only(case, kind, attached, golden_trace, relative):
    trace = golden_trace(case)
    state = None
    for session in ("session0", "session1"):
        mask = trace[f"{session}.attention_mask"]
        cache = CACHES[kind](attached.model.config)
        out, state = attached.forward(
            state=state,
            input_ids=trace[f"{session}.input_ids"],
            attention_mask=mask,
            past_key_values=cache,
            **spans_of(trace, session),
        )
        real = mask.bool()
        assert relative(out.logits[real], trace[f"{session}.logits"][real]) < LIMIT
        check_state(state, state_of(trace, session), relative)
    for step in range(sum(name.startswith("decode") and name.endswith("input_ids") for name in trace)):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out, state = attached.forward(
            state=state, input_ids=trace[f"decode{step}.input_ids"], attention_mask=mask, past_key_values=cache
        )
        assert relative(out.logits, trace[f"decode{step}.logits"]) < LIMIT
    check_state(state, state_of(trace, "decode"), relative)
    mask = trace["session0.attention_mask"]
    ids = trace["session0.input_ids"]
    out, after = attached.forward(state=state, write=False, input_ids=ids, attention_mask=mask, use_cache=False)
    assert relative(out.logits[mask.bool()], trace["readonly.logits"][mask.bool()]) < LIMIT
    assert all(torch.equal(after[key], state[key]) for key in state)


def cuts(trace, case, session, row, start, length, size):
    """Chunk ends: every ``size`` tokens, or for span writes only where the next token is of another span."""
    if "ssw" not in case:
        return [*range(start + size, length, size), length]
    name = "sentence_ids" if "sentence" in case else "message_ids"
    ids = trace[f"{session}.{name}"][row].tolist()
    ends = [at for at in range(start + 1, length) if ids[at] != ids[at - 1] and ids[at - 1] not in ids[at:]]
    return [*ends, length]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_unpadded_rows_in_chunks(case, size, kind, attached, golden_trace, relative):
    trace = golden_trace(case)
    for row in range(2):
        state = None
        for session in ("session0", "session1"):
            mask = trace[f"{session}.attention_mask"][row]
            ids = trace[f"{session}.input_ids"][row : row + 1]
            start, before = int((mask == 0).sum()), state
            cache, logits, at = CACHES[kind](attached.model.config), [], start
            for end in cuts(trace, case, session, row, start, ids.shape[1], size):
                out, state = attached.forward(
                    state=state,
                    read_state=before or attached.zero_state(1),
                    input_ids=ids[:, at:end],
                    past_key_values=cache,
                    **spans_of(trace, session, slice(row, row + 1), slice(at, end)),
                )
                logits.append(out.logits)
                at = end
            assert relative(torch.cat(logits, 1)[0], trace[f"{session}.logits"][row, start:]) < LIMIT
            check_state(state, state_of(trace, session, slice(row, row + 1)), relative)


@torch.no_grad()
@pytest.mark.parametrize("case", ["qwen3-msw", "qwen3-no-lambda-layers", "smollm3-tsw-qkvo", "qwen3-ssw-sentence"])
def test_our_files_hold_the_same_adapter(case, golden_folder, golden_trace, golden_model, relative, tmp_path):
    theirs = load_adapter(golden_folder / case / "adapter")
    ours = load_adapter(save_adapter(theirs, tmp_path / "saved"))
    assert ours.fingerprint() == theirs.fingerprint()
    trace = golden_trace(case)
    attached = attach(golden_model(case, "sdpa"), ours)
    mask = trace["session0.attention_mask"]
    _, state = attached.forward(
        input_ids=trace["session0.input_ids"], attention_mask=mask, **spans_of(trace, "session0")
    )
    attached.detach()
    check_state(state, state_of(trace, "session0"), relative)
