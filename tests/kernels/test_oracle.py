"""The oracle against the formula written out in numbers."""

from __future__ import annotations

import pytest
import torch

from deltamem_kernels import delta_scan, delta_step


def by_hand(scan):
    """The two lines of the paper, element by element."""
    q, k, v, keep, erase, write = (x.tolist() for x in scan.inputs)
    states = scan.state.tolist()
    n, tokens, rank = scan.inputs[0].shape
    reads = [[[0.0] * rank for _ in range(tokens)] for _ in range(n)]
    for b in range(n):
        for t in range(tokens):
            if scan.mask is not None and not scan.mask[b, t]:
                continue
            for i in range(rank):
                row = states[b][i]
                reads[b][t][i] = sum(row[j] * q[b][t][j] for j in range(rank))
                seen = sum(row[j] * k[b][t][j] for j in range(rank))
                change = write[b][t][i] * v[b][t][i] - erase[b][t][i] * seen
                states[b][i] = [keep[b][t][i] * row[j] + change * k[b][t][j] for j in range(rank)]
    return torch.tensor(reads, dtype=torch.float64), torch.tensor(states, dtype=torch.float64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_oracle_is_the_formula(make_scan, error, rank, masked):
    scan = make_scan(2, 9, rank, masked=masked)

    reads, state = scan.oracle()

    expected_reads, expected_state = by_hand(scan)
    assert error(reads, expected_reads) < 1e-14
    assert error(state, expected_state) < 1e-14


def test_oracle_gradients(make_scan):
    scan = make_scan(2, 4, 3, masked=True)
    arguments = [x.requires_grad_() for x in (*scan.inputs, scan.state)]

    assert torch.autograd.gradcheck(lambda *x: delta_scan(*x, scan.mask, backend="naive"), arguments)


def test_step_is_a_scan_of_one_token(make_scan):
    scan = make_scan(3, 1, 5)
    pool = torch.full((6, 5, 5), 7.0, dtype=torch.float64)
    slots = torch.tensor([4, -1, 0])
    pool[[4, 0]] = scan.state[[0, 2]]

    reads = delta_step(*(x[:, 0] for x in scan.inputs), pool, slots)

    expected_reads, expected_states = scan.oracle()
    assert torch.equal(reads[[0, 2]], expected_reads[[0, 2], 0])
    assert torch.equal(pool[[4, 0]], expected_states[[0, 2]])
    assert torch.equal(reads[1], torch.zeros(5, dtype=torch.float64))
    assert bool((pool[[1, 2, 3, 5]] == 7.0).all())


def test_step_keeps_state_in_float32_under_bfloat16(make_scan, error):
    scan = make_scan(2, 1, 8)
    inputs = [x[:, 0].bfloat16() for x in scan.inputs]
    pool = scan.state.float()

    reads = delta_step(*inputs, pool, torch.tensor([1, 0]))

    expected, states = delta_scan(*(x[:, None].double() for x in inputs), scan.state[[1, 0]])
    assert reads.dtype == torch.bfloat16
    assert error(reads, expected[:, 0]) < 5e-3
    assert error(pool[[1, 0]], states) < 1e-6


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("rank", [1, 3, 8, 64, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_in_float32_is_the_oracles(make_scan, error, rank, dtype):
    """On a CPU the compiled step where there is one, at any rank."""
    scan = make_scan(4, 1, rank)
    inputs = [x[:, 0].to(dtype) for x in scan.inputs]
    slots = torch.tensor([5, -1, 0, 3])
    pool = torch.full((7, rank, rank), 7.0)
    pool[[5, 0, 3]] = scan.state[[0, 2, 3]].float()
    oracle = pool.double()

    reads = delta_step(*inputs, pool, slots)

    expected = delta_step(*(x.double() for x in inputs), oracle, slots)
    assert error(reads, expected) < (1e-6 if dtype == torch.float32 else 5e-3)
    assert error(pool, oracle) < 1e-6
    assert not reads[1].any()
    assert bool((pool[[1, 2, 4, 6]] == 7.0).all())


def test_step_refuses_a_slot_that_is_not_there(make_scan):
    scan = make_scan(2, 1, 8)
    pool = scan.state.float()
    before = pool.clone()
    with pytest.raises(IndexError):
        delta_step(*(x[:, 0].float() for x in scan.inputs), pool, torch.tensor([0, 2]))
    assert torch.equal(pool, before)


def test_scan_cut_in_two_is_the_same(make_scan):
    scan = make_scan(2, 11, 4, masked=True)

    first, middle = delta_scan(*(x[:, :6] for x in scan.inputs), scan.state, scan.mask[:, :6])
    second, state = delta_scan(*(x[:, 6:] for x in scan.inputs), middle, scan.mask[:, 6:])

    reads, expected = scan.oracle()
    assert torch.equal(torch.cat([first, second], dim=1), reads)
    assert torch.equal(state, expected)
