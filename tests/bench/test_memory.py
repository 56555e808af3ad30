"""Limits of memory: the estimate, the chunk that is chosen, and what runs, upscalings and profiles make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.compute import Compute, prepare_torch
from bench.inference import OutOfMemory, super_resolve
from bench.memory import CHUNKS, TooLittleMemory, choose_chunk, format_size, parse_size, peak_bytes
from bench.tracking import tracking
from methods import build
from methods.errors import UserError

OUT = (96, 90)


@pytest.fixture(scope="module")
def liif():
    torch.manual_seed(0)
    return build("liif", "edsr-micro", encoder={"blocks": 1, "channels": 6}, hidden=(32, 32)).eval()


@pytest.fixture
def lr():
    return torch.rand(1, 3, 32, 30, generator=torch.Generator().manual_seed(0))


def used(model, lr, chunk, compute):
    """Bytes at the peak of a real inference, weights and image included."""
    with compute.inferring(), tracking() as tracker:
        model(lr, OUT, 3.0, chunk=chunk)
    return tracker.peak + lr.nbytes + sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 2**29), ("2GiB", 2**31), ("1.5GB", 15 * 10**8), (" 3 kib ", 3072), ("7", 7), ("100b", 100)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 apples", "2Gi", "1e9", "0", "nan", "0.1b", "9" * 30])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="is not an amount of memory: write it like 512MiB or 2GiB"):
        parse_size(text)


def test_sizes_as_people_read_them():
    assert [format_size(size) for size in (0, 3 * 2**20, 1.5 * 2**30)] == ["0 MiB", "3 MiB", "1.50 GiB"]


def test_the_peak_grows_with_the_chunk_and_is_that_of_a_real_inference(liif, lr):
    peaks = [peak_bytes(liif, lr, OUT, 3.0, chunk) for chunk in CHUNKS]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 1.5 * peaks[-1]
    compute = Compute(torch.device("cpu"), torch.float32)
    for chunk, peak in zip(CHUNKS, peaks, strict=True):
        assert used(liif, lr, chunk, compute) <= peak <= 1.05 * used(liif, lr, chunk, compute)


def test_the_largest_chunk_that_fits_is_chosen(liif, lr):
    needed = {chunk: peak_bytes(liif, lr, OUT, 3.0, chunk) for chunk in CHUNKS}
    own = peak_bytes(liif, lr, OUT, 3.0)
    assert choose_chunk(liif, lr, OUT, 3.0, own) is None
    for limit in range(min(needed.values()), own, own // 40):
        expected = max(chunk for chunk in CHUNKS if needed[chunk] <= limit)
        assert choose_chunk(liif, lr, OUT, 3.0, limit) == expected


def test_what_fits_no_chunk_is_said_with_the_least(liif, lr):
    least = peak_bytes(liif, lr, OUT, 3.0, CHUNKS[-1])
    with pytest.raises(
        TooLittleMemory, match=rf"30x32 pixels needs at least {format_size(least)} for 90x96, more than"
    ):
        choose_chunk(liif, lr, OUT, 3.0, least - 1)


def test_what_no_machine_holds_is_estimated_nevertheless(liif):
    image = torch.empty(1, 3, 50_000, 50_000, device="meta")
    assert peak_bytes(liif, image, (100_000, 100_000), 2.0, 10**9) > 9 * 10**11
    assert all(parameter.device.type == "cpu" for parameter in liif.parameters())


def test_autocast_stays_below_its_estimate(liif, lr):
    compute = prepare_torch("cpu", "autocast-bfloat16")
    for chunk in CHUNKS:
        assert used(liif, lr, chunk, compute) <= peak_bytes(liif, lr, OUT, 3.0, chunk, autocast=True)


def test_a_limit_changes_the_chunk_and_not_the_image(liif, lr):
    image = (lr[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    compute = Compute(torch.device("cpu"), torch.float32)
    free = super_resolve(liif, image, OUT, 3.0, compute)
    limit = peak_bytes(liif, lr, OUT, 3.0, 1024)
    bounded = super_resolve(liif, image, OUT, 3.0, compute, max_memory=limit)
    assert (free.chunk, bounded.chunk) == (None, 1024)
    np.testing.assert_allclose(bounded.sr, free.sr, rtol=0, atol=1e-6)
    with pytest.raises(OutOfMemory, match="needs at least"):
        super_resolve(liif, image, OUT, 3.0, compute, max_memory=1000)
