import cv2
import numpy as np
import pytest
import torch

from sfplus.networks.normalize import normalize_crops
from sfplus.training.augment import GREY, ROTATION, SCALE, SHIFT, distort, draw_distortions

IDENTITY = [0, 1, 0, 0, 1, 0, 0]


def crops(count: int = 1, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 112, 96, 3), np.uint8)
    return normalize_crops(torch.from_numpy(np.stack([cv2.GaussianBlur(crop, (0, 0), 4) for crop in noise])))


def distortions(**values: float) -> torch.Tensor:
    names = ("angle", "scale", "right", "down", "contrast", "brightness", "grey")
    return torch.tensor([[values.get(name, identity) for name, identity in zip(names, IDENTITY, strict=True)]])


def test_identity_distortions_leave_crops_unchanged():
    x = crops(3)
    torch.testing.assert_close(distort(x, torch.tensor([IDENTITY] * 3, dtype=torch.float32)), x, atol=1e-5, rtol=0)


def test_geometric_distortions_match_opencv():
    x = crops()
    angle, scale, right, down = 0.15, 1.08, 0.07, -0.05
    warped = distort(x, distortions(angle=angle, scale=scale, right=right, down=down))[0].permute(1, 2, 0).numpy()
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([47.5, 55.5])
    matrix = np.c_[turn, middle - turn @ middle + [right * 48, down * 56]]  # maps a pixel of the result to its source
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    photo = np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
    expected = cv2.warpAffine(photo, matrix, (96, 112), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(warped - expected).max() < 0.01  # OpenCV rounds positions to 1/32 pixel
    assert np.abs(warped - photo).max() > 0.1


def test_contrast_brightness_and_grey():
    x = crops()
    torch.testing.assert_close(distort(x, distortions(contrast=0.5, brightness=0.2)), x * 0.5 + 0.2, atol=1e-5, rtol=0)
    assert distort(x, distortions(brightness=3.0)).max() <= 1
    grey = distort(x, distortions(grey=1.0))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_distortions_fill_their_ranges_and_depend_on_seed_and_step(strength):
    draw = draw_distortions(3, 4000, 7, strength)
    assert torch.equal(draw, draw_distortions(3, 4000, 7, strength))
    assert not torch.equal(draw, draw_distortions(4, 4000, 7, strength))
    assert not torch.equal(draw, draw_distortions(3, 4000, 8, strength))
    widest = (draw[:, :6] - torch.tensor(IDENTITY[:6])).abs().amax(0) / strength
    torch.testing.assert_close(
        widest, torch.tensor([ROTATION, SCALE, 2 * SHIFT, 2 * SHIFT, 0.3, 0.25]), rtol=0.01, atol=0
    )
    assert draw[:, 6].mean().item() == pytest.approx(GREY * strength, abs=0.02)
