"""Matrix products with a weight that is prepared once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.ops.packed import FEW_ROWS, LONG_SUM, Float16Linear, PackedLinear, few_sizes


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1, 1000])
@pytest.mark.parametrize("inputs", [30, LONG_SUM + 1])
def test_a_packed_product_equals_the_plain_one(rows: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (rows, 20))
    found = PackedLinear(weight, 2, torch.ones(20))(x)
    expected = F.linear(x.double(), weight.double(), torch.ones(20).double())
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)  # sums of up to 1,025 products


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_a_product_with_a_float16_weight_loses_nothing(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((rows, 600), (20, 600), (20,)))
    assert not Float16Linear.supports(weight)
    weight = weight.half().float()
    if not Float16Linear.supports(weight):
        pytest.skip("this PyTorch has no such product")
    expected = F.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(Float16Linear(weight, bias)(x).double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(Float16Linear(weight)(x).double(), expected - bias, atol=1e-4, rtol=0)
    for lost in (float("nan"), 1e6, 1e-9):
        weight[3, 5] = lost
        assert not Float16Linear.supports(weight)


def test_few_sizes() -> None:
    assert [few_sizes(rows) for rows in (1, 31, 32, 33, 1000, 1025, 2048, 2049)] == [
        1, 31, 32, 34, 1024, 1088, 2048, 2176,
    ]  # fmt: skip
    sizes = {few_sizes(rows) for rows in range(FEW_ROWS, 16 * FEW_ROWS)}
    assert len(sizes) == 4 * 16 + 1
