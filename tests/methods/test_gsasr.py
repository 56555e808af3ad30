from __future__ import annotations

import pytest
import torch
from plain_gsasr import CROSS_INDEX, SELF_INDEX, plain_gaussians, plain_render, reference_shapes

from methods import load
from methods.encoders import build_encoder
from methods.errors import UserError
from methods.gsasr import GSASR, attention, heads
from methods.gsasr.attention import ScaleAttention, set_order_index, swin_index
from methods.gsasr.gaussians import Rendering

HEADS = 3


@pytest.fixture(scope="module")
def make():
    def build(seed=0, **hparams):
        torch.manual_seed(seed)
        encoder = build_encoder("edsr-micro", blocks=1, channels=8)
        small = {"channels": 12, "heads": HEADS, "self_blocks": 2, "self_layers": 2, "head_ratio": 2}
        model = GSASR(encoder, **{**small, **hparams}).double()
        with torch.no_grad():  # the initial biases and bias tables are too small to be missed
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        return model

    return build


def images(*shape, seed=1):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def truth(model, lr, scale):
    state = dict(model.named_parameters())
    return plain_gaussians(state, model.encoder(lr), scale, HEADS)


def relative(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize(("layers", "shape"), [(1, (1, 3, 12, 12)), (2, (2, 3, 24, 36)), (3, (1, 3, 24, 12))])
def test_gaussians_equal_the_plain_form(make, shape, layers):
    model, lr = make(cross_layers=layers, cross_blocks=layers), images(*shape)
    with torch.no_grad():
        assert relative(model.gaussians(model.encode(lr), 2.7), truth(model, lr, 2.7)) < 1e-13


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("at_a_time", [100, 10**6])
def test_gradients_equal_those_of_the_plain_form(make, monkeypatch, kept, at_a_time):
    for module, size in ((attention, "SCORES"), (heads, "TRAINED")):
        monkeypatch.setattr(module, "KEPT", kept)
        monkeypatch.setattr(module, size, at_a_time)
    model, lr = make(), images(1, 3, 12, 24)
    names, parameters = zip(*model.named_parameters(), strict=True)
    weight = torch.randn(1, 16 * 12 * 24, 9, dtype=torch.float64)
    ours, plain = (
        torch.autograd.grad((raw * weight).mean(), parameters, allow_unused=True)
        for raw in (model.gaussians(model.encode(lr), 1.3), truth(model, lr, 1.3))
    )
    largest = max(grad.abs().max() for grad in plain)
    unused = [name for name, grad in zip(names, ours, strict=True) if grad is None]
    assert all(name.endswith(("norm1.weight", "norm1.bias", "norm3.weight", "norm3.bias")) for name in unused)
    assert len(unused) == 2 * (2 + 4)  # weight and bias of one norm per layer
    for name, own, reference in zip(names, ours, plain, strict=True):
        error = (reference if own is None else own - reference).abs().max()
        assert error < 1e-12 * max(reference.abs().max(), 1e-3 * largest), name


@pytest.mark.parametrize("chunk", [1, 500, 10**9])
def test_chunks_change_nothing(make, chunk):
    model, lr = make(), images(1, 3, 24, 12)
    with torch.no_grad():
        feat = model.encode(lr)
        assert relative(model.gaussians(feat, 2.0, chunk=chunk), model.gaussians(feat, 2.0)) < 1e-14


@pytest.mark.parametrize(
    ("options", "canvas", "dmax"),
    [
        ({"dmax": 0.1}, (20, 40), 0.1),
        ({"dmax": 0.5}, (20, 40), 0.5),
        ({"dmax": 0.5, "canvas": "ceil"}, (21, 41), 0.5),
        ({"dmax": 0.1, "dmax_mode": "dynamic"}, (20, 40), 2.1 / 20),
        ({"dmax": float("inf")}, (20, 40), 1e9),
    ],
)
def test_drawing_equals_the_official_one(make, options, canvas, dmax):
    model, lr = make(cutoff=float("inf"), **options), images(1, 3, 12, 24)[:, :, :10, :19]
    with torch.no_grad():
        padded = torch.nn.functional.pad(lr, (0, 5, 0, 2), mode="reflect")
        reference = plain_render(truth(model, padded, 1.7), canvas, 1.7, dmax)[..., :17, :32]
        assert relative(model(lr, (17, 32), 1.7), reference) < 1e-11


def test_windows_in_pixels():
    canvas = (101, 201)
    assert Rendering(dmax=0.1).window(canvas, 4.0) == pytest.approx((5, 10))
    assert Rendering(raster_ratio=0.1).window(canvas, 4.0) == pytest.approx((10.1, 20.1))
    assert Rendering(lr_window=2.5).window(canvas, 4.0) == (10, 10)
    assert Rendering(dmax=float("inf")).window(canvas, 4.0) is None


def test_canvas_is_never_smaller_than_the_output():
    assert Rendering().canvas_size((48, 48), (67, 67), 67 / 48 - 1e-12) == (67, 67)
    assert Rendering().canvas_size((12, 24), (36, 75), 3.3) == (39, 79)
    assert Rendering(canvas="ceil").canvas_size((12, 24), (36, 75), 3.3) == (40, 80)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 13)])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_any_size(make, size, scale):
    model = make().float()
    out_size = (int(size[0] * scale), int(size[1] * scale))
    with torch.no_grad():
        sr = model(images(2, 3, *size).float(), out_size, scale)
    assert sr.shape == (2, 3, *out_size)
    assert sr.dtype == torch.float32
    assert sr.isfinite().all()


def test_one_encoding_serves_all_scales(make):
    model, lr = make().float(), images(1, 3, 12, 12).float()
    with torch.no_grad():
        feat = model.encode(lr)
        for scale in (2, 3):
            size = (12 * scale, 12 * scale)
            torch.testing.assert_close(model.render(feat, size, (scale, scale)), model(lr, size), rtol=0, atol=0)


def test_the_image_trains_every_living_parameter(make):
    model = make().float()
    model(images(2, 3, 12, 12).float(), (24, 24)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.split(".")[-2] in ("norm1", "norm3", "khead") for name in still)


def test_axes_share_one_scale(make):
    with pytest.raises(UserError, match="one scale for both axes"):
        make().float()(images(1, 3, 12, 12).float(), (24, 36))


@pytest.mark.parametrize(
    "options",
    [
        {"dmax": 0},
        {"dmax": float("nan")},
        {"dmax": "wide"},
        {"dmax_mode": "auto"},
        {"canvas": "round"},
        {"cutoff": -1},
        {"raster_ratio": 0.1, "lr_window": 3},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="GSASR"):
        Rendering(**options)


def test_relative_positions():
    assert torch.equal(swin_index(12), SELF_INDEX)
    assert torch.equal(set_order_index(12), CROSS_INDEX)


@pytest.mark.parametrize(
    ("backbone", "case", "parameters"),
    [("edsr-baseline", "edsr_x2", 20_444_797), ("rdn", "rdn_x4_pad", 41_198_333)],
)
def test_entries_and_shapes_are_the_official_ones(backbone, case, parameters):
    with torch.device("meta"):
        model = GSASR(build_encoder(backbone, **GSASR.encoder_hparams.get(backbone, {})))
        official = {key: torch.empty(shape) for key, shape in reference_shapes(case).items()}
        ours = {key: value.shape for key, value in model.state_dict().items()}
        assert {key: value.shape for key, value in model.from_reference(official).items()} == ours
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert not getattr(model.encoder, "global_skip", False)


def test_official_index_buffers(make):
    model = make()
    key = "window_crossattn_blocks.0.blocks.1.window_cross_attn.relative_position_index"
    own = dict(model.state_dict())
    assert model.from_reference(own | {key: CROSS_INDEX}).keys() == own.keys()
    with pytest.raises(UserError, match=key):
        model.from_reference(own | {key: SELF_INDEX})


def test_foreign_entries_stay_visible(make):
    model = make()
    assert "encoder.imnet.layers.0.weight" in model.from_reference({"imnet.layers.0.weight": torch.zeros(1)})


def test_initial_weights():
    torch.manual_seed(0)
    model = GSASR(build_encoder("edsr-micro"), self_blocks=1, self_layers=1)
    table = model.window_crossattn_blocks[0].blocks[0].window_cross_attn.relative_position_bias_table
    assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.gs_embedding.std().item() == pytest.approx(1, rel=0.05)
    own, torchs = ScaleAttention(180), torch.nn.MultiheadAttention(180, 6)
    for (name, mine), (other, theirs) in zip(own.named_parameters(), torchs.named_parameters(), strict=True):
        assert (name, mine.shape) == (other, theirs.shape)
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


def test_a_window_that_users_set_replaces_the_checkpoint_s():
    lr = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    shipped = load("gsasr", "edsr-micro")
    assert shipped.rendering.lr_window is not None
    for options in ({"dmax": 0.1}, {"raster_ratio": 0.05}):
        model = load("gsasr", "edsr-micro", options=options)
        assert model.rendering.lr_window is None
        with torch.inference_mode():
            assert not torch.equal(model(lr, (24, 24), 2), shipped(lr, (24, 24), 2))


@pytest.mark.parametrize("window", [{"dmax": 0.3}, {"lr_window": 3.0}, {"dmax": float("inf")}])
def test_a_batch_of_several_sizes_and_scales_equals_one_by_one(make, window):
    model, lr = make(window=4, **window), images(3, 3, 4, 8)
    scales, sizes = [1.5, 4.0, 2.75], [(6, 12), (16, 32), (11, 22)]
    together = model.render_each(model.encode(lr), sizes, scales)
    assert together.shape == (3, 3, 16, 32)
    upstream = torch.randn(together.shape, dtype=together.dtype, generator=torch.Generator().manual_seed(2))
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad((together * upstream).sum(), parameters, allow_unused=True)
    loss = 0
    for i, ((height, width), scale) in enumerate(zip(sizes, scales, strict=True)):
        alone = model(lr[i : i + 1], (height, width), scale)[0]
        assert relative(together[i, :, :height, :width], alone) < 1e-11
        assert together[i, :, height:].eq(0).all()
        assert together[i, :, :, width:].eq(0).all()
        loss = loss + (alone * upstream[i, :, :height, :width]).sum()
    separate = torch.autograd.grad(loss, parameters, allow_unused=True)
    largest = max(grad.abs().max() for grad in separate if grad is not None)  # some have none but rounding
    for ours, theirs in zip(grads, separate, strict=True):
        assert ours is None or (ours - theirs).abs().max() < 1e-9 * largest


SWITCHES = {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 1, "head_ratio": 1}


def small(**switches):
    torch.manual_seed(0)
    return GSASR(build_encoder("edsr-micro", blocks=1, channels=8), **SWITCHES, **switches).double()


def test_a_shared_embedding_is_one_repeated():
    shared, own = small(shared_embedding=True), small()
    state = shared.state_dict()
    assert state["gs_embedding"].shape == (1, 12)
    own.load_state_dict(state | {"gs_embedding": state["gs_embedding"].expand(16, -1)})
    lr = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(shared(lr, (16, 16)), own(lr, (16, 16)))


def test_the_network_may_be_told_the_scale_itself():
    told, inverse = small(told_scale="scale"), small()
    lr = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(told.gaussians(told.encode(lr), 0.25), inverse.gaussians(inverse.encode(lr), 4.0))


def test_the_bias_index_may_be_swins():
    official, swin = small(), small(bias_index="swin")
    layer = swin.window_crossattn_blocks[0].blocks[0].window_cross_attn
    assert torch.equal(layer.relative_position_index, swin_index(4))
    assert torch.equal(
        official.window_crossattn_blocks[0].blocks[1].window_cross_attn.relative_position_index, set_order_index(4)
    )


def test_without_reference_positions_centres_are_the_offsets():
    free, placed = small(reference_positions=False), small()
    lr = torch.rand(1, 3, 8, 4, dtype=torch.float64)
    offsets = free.gaussians(free.encode(lr), 2.0)
    means = placed.gaussians(placed.encode(lr), 2.0)
    torch.testing.assert_close(offsets[..., :7], means[..., :7])
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(16), indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1) + 0.5
    torch.testing.assert_close((offsets[..., 7:] + cells) / torch.tensor([16, 32]), means[..., 7:])


@pytest.mark.parametrize("switch", [{"told_scale": "log"}, {"bias_index": "mine"}])
def test_unknown_switches_are_refused(switch):
    with pytest.raises(UserError, match="GSASR has no"):
        small(**switch)
