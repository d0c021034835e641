"""Write spans: which tokens are averaged into which write."""

from __future__ import annotations

import pytest
import torch

from deltamem_agents.core import attach
from deltamem_agents.core.spans import plan_spans
from deltamem_agents.errors import ConfigError

CPU = torch.device("cpu")


def test_spans_are_ordered_by_id_and_averaged():
    ids = torch.tensor([[7, 7, -1, 300, 7], [-1, -1, -1, -1, 4]])
    valid = torch.tensor([[True, True, True, True, False], [True] * 5])
    plan = plan_spans("message", ids, None, valid, (2, 5), CPU)
    values = torch.tensor([[1.0, 3.0, 100.0, 5.0, 100.0], [100.0, 100.0, 100.0, 100.0, 8.0]]).unsqueeze(-1)
    assert plan.mask.tolist() == [[True, True], [True, False]]
    assert plan.pool(values).squeeze(-1).tolist() == [[2.0, 5.0], [8.0, 0.0]]


def test_a_sentence_outside_messages_is_not_written():
    messages, sentences = torch.tensor([[0, -1, 1]]), torch.tensor([[0, 0, 1]])
    plan = plan_spans("sentence", messages, sentences, None, (1, 3), CPU)
    assert plan.slot.tolist() == [[0, 2, 1]]
    assert plan_spans("token", messages, sentences, None, (1, 3), CPU) is None
    assert plan_spans("sentence", None, None, None, (1, 3), CPU) is None


def test_incomplete_or_misshapen_ids_are_refused():
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ConfigError, match="needs sentence_ids"):
        plan_spans("sentence", ids, None, None, (1, 3), CPU)
    with pytest.raises(ConfigError, match=r"\(1, 3\).*\(1, 4\)"):
        plan_spans("message", ids, None, None, (1, 4), CPU)
    with pytest.raises(ConfigError, match="float32"):
        plan_spans("message", ids.float(), None, None, (1, 3), CPU)


@torch.no_grad()
def test_ids_without_a_span_write_nothing_and_no_ids_write_tokens(backbone, strong_adapter, tokens):
    model = backbone()
    attached = attach(model, strong_adapter(model, write="message", heads=2))
    ids = tokens(2, 6)
    never = torch.full((2, 6), -1)
    _, state = attached.forward(input_ids=ids, message_ids=never)
    assert all(not each.any() for each in state.values())
    _, state = attached.forward(input_ids=ids)
    assert all(each.any() for each in state.values())


@torch.no_grad()
def test_tokens_of_a_segment_read_the_state_from_before_it(backbone, strong_adapter, tokens, relative):
    """In chunks with `read_state`, logits and states are those of one forward; without it they are not."""
    model = backbone()
    attached = attach(model, strong_adapter(model, write="message"))
    ids, spans = tokens(1, 9), torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]])
    _, before = attached.forward(input_ids=tokens(1, 5, seed=3))
    whole, wanted = attached.forward(state=before, input_ids=ids, message_ids=spans)
    for read_state, agrees in ((before, True), (None, False)):
        state, cache, logits = before, None, []
        for at in range(0, 9, 3):
            out, state = attached.forward(
                state=state,
                read_state=read_state,
                input_ids=ids[:, at : at + 3],
                message_ids=spans[:, at : at + 3],
                past_key_values=cache,
            )
            cache = out.past_key_values
            logits.append(out.logits)
        assert (relative(torch.cat(logits, 1), whole.logits) < 1e-5) is agrees
    _, state = attached.forward(state=before, input_ids=ids, message_ids=spans)
    assert all(torch.equal(state[key], wanted[key]) for key in state)
