"""Draws are functions of (seed, purpose): the same anywhere, independent of each other and of torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdlib.seeding import derive, generator

PURPOSE = st.lists(st.text("abcxyz", min_size=1, max_size=6) | st.integers(0, 999).map(str), max_size=3).map(tuple)


def test_derive__is_the_same_on_every_machine():
    """First 8 bytes of `printf '0/order/1' | sha256sum` and of `printf 7 | sha256sum`, without the last bit."""
    assert derive(0, "order", 1) == 0x7C9B834547AC6879 >> 1
    assert derive(7) == 0x7902699BE42C8A8E >> 1


@given(st.integers(0, 2**40), PURPOSE)
def test_derive__fits_any_generator(seed, purpose):
    assert 0 <= derive(seed, *purpose) < 2**63
    generator(seed, *purpose)


@given(st.tuples(st.integers(0, 50), PURPOSE), st.tuples(st.integers(0, 50), PURPOSE))
def test_derive__differs_between_seeds_and_purposes(first, second):
    same = derive(first[0], *first[1]) == derive(second[0], *second[1])
    assert same == (first == second)


def test_derive__does_not_run_numbers_together():
    assert len({derive(1, "a", 12), derive(11, "a", 2), derive(1, "a1", 2), derive(1, "a", 1, 2)}) == 4


def test_generator__draws_again_what_it_drew():
    first, second = (torch.rand(5, generator=generator(3, "order", 2)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("other", [(4, "order", 2), (3, "caption", 2), (3, "order", 3)])
def test_generator__has_a_stream_for_each_seed_purpose_and_epoch(other):
    first, second = (torch.randperm(50, generator=generator(*key)) for key in ((3, "order", 2), other))
    assert not torch.equal(first, second)


def test_generator__neither_reads_nor_moves_torchs_own():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = torch.rand(4, generator=generator(1, "x"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.rand(4, generator=generator(1, "x")), first)


def test_generator__streams_of_neighbouring_epochs_are_not_correlated():
    """Mean product of 20,000 standard normal pairs: within 4 sigma of 0."""
    first, second = (torch.randn(20_000, generator=generator(0, "order", epoch)) for epoch in (1, 2))
    assert (first * second).mean().abs() < 4 / 20_000**0.5
