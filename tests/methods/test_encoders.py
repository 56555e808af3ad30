"""Encoders against the references' features, and parts of them against plain forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench.parity import run_parity
from methods import UserError
from methods.encoders import build_encoder
from methods.encoders.edsr import EDSR
from methods.encoders.rdn import RDN
from methods.encoders.swinir import SwinIR, merge, partition, shift_mask
from methods.padding import pad_to_multiple

CASES = Path(__file__).parents[1] / "parity" / "encoders"
SMALL = {
    "edsr": lambda: EDSR(blocks=2, channels=4),
    "rdn": lambda: RDN(blocks=3, layers=2, growth=5, channels=4),
    "swinir": lambda: SwinIR(embed=12, stages=2, blocks=2, heads=2, window=4, channels=4),
}


@pytest.mark.parametrize("case", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_reference_features(case):
    (result,) = run_parity([case])
    assert result.verdict == "pass", result


@pytest.mark.parametrize(
    ("name", "parameters"), [("edsr-baseline", 1_220_416), ("rdn", 21_973_952), ("swinir", 11_603_044)]
)
def test_published_size(name, parameters):
    with torch.device("meta"):
        encoder = build_encoder(name)
    assert encoder.channels == 64
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 7)])
def test_any_size_and_every_parameter_learns(name, size):
    torch.manual_seed(0)
    encoder = SMALL[name]().double()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    features = encoder(images)
    assert features.shape[:2] == (2, 4)
    torch.testing.assert_close(features[1:], encoder(images[1:]))
    features.square().sum().backward()
    if size == (9, 7):
        assert all(p.grad.abs().max() > 1e-12 for p in encoder.parameters())


def test_rdn_as_published():
    """Every concatenation spelt out (Zhang et al., equations 2 to 9)."""
    torch.manual_seed(0)
    rdn = SMALL["rdn"]().double()
    image = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    f_1 = rdn.SFENet1(image)
    outputs = [rdn.SFENet2(f_1)]
    for block in rdn.RDBs:
        layers = [outputs[-1]]
        for layer in block.convs:
            layers.append(F.relu(layer.conv[0](torch.cat(layers, 1))))
        outputs.append(outputs[-1] + block.LFF(torch.cat(layers, 1)))
    expected = f_1 + rdn.GFF[1](rdn.GFF[0](torch.cat(outputs[1:], 1)))
    torch.testing.assert_close(rdn(image), expected)


def test_windows_come_apart_and_together():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    windows = partition(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert windows[1, 5].tolist() == x[1, 2:4, 4:6].flatten(0, 1).tolist()
    assert merge(windows, (4, 6), 2).equal(x)


def test_shift_mask_by_hand():
    mask = shift_mask((4, 8), 4, 2)  # rows split at 0 and 2, columns of the last window at 4 and 6
    region = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).flatten()
    assert mask[0].eq(0).equal(region[:, None] == region)
    region = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]).flatten()
    assert mask[1].eq(0).equal(region[:, None] == region)
    assert set(mask.unique().tolist()) == {-100, 0}


def test_swinir_leaves_stored_constants_aside():
    encoder = SMALL["swinir"]()
    block = "layers.0.residual_group.blocks.1"
    stored = {f"{block}.attn.relative_position_index": torch.zeros(1), f"{block}.attn_mask": torch.zeros(1)}
    assert encoder.from_reference({**encoder.state_dict(), **stored}).keys() == encoder.state_dict().keys()


def test_padding_reflects_or_repeats():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert pad_to_multiple(row, 5).squeeze().tolist() == [[1, 2, 3, 2, 1]] * 5
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert pad_to_multiple(row, 1) is row


def test_unknown_encoder():
    with pytest.raises(UserError, match="no backbone called 'edsr-baselin': did you mean edsr-baseline"):
        build_encoder("edsr-baselin")
