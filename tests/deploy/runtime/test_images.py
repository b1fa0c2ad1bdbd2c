import numpy as np
import pytest

from deploy.runtime.errors import InputError
from deploy.runtime.images import Resampler, network_view


def photograph(random, size):
    """Smooth structure, sharp edges and noise, (H, W, 3) uint8."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.stack([np.sin(x / 17 + k) * np.cos(y / (23 + k)) for k in range(3)], -1)
    edges = ((x // 40 + y // 30) % 2)[..., None]
    return np.clip(120 + 60 * waves + 50 * edges + random.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("raw", [(900, 1600), (450, 800), (300, 1000), (120, 160)])
def test_the_view_is_that_of_the_test_pipeline(raw):
    from perception.datasets.transforms.images import LoadAndAugmentImages, image_augmentation

    transform = LoadAndAugmentImages(size=(256, 704), training=False)
    wanted = image_augmentation(raw, (256, 704), transform.draw(raw, None))
    np.testing.assert_allclose(network_view(raw, (256, 704)), wanted, atol=1e-12)


@pytest.mark.parametrize("headroom", [0.0, 0.11])
@pytest.mark.parametrize("raw", [(900, 1600), (256, 704), (120, 160)])
def test_pixels_are_those_of_the_test_pipeline(random, raw, headroom):
    from perception.datasets.transforms.images import shrink, warp

    image, size = photograph(random, raw), (128, 352)
    img_aug = network_view(raw, size)
    wanted = warp(shrink(image, size[1] / raw[1] + headroom), raw, size, img_aug).astype(int)
    got = np.zeros((*size, 3), np.uint8)
    Resampler(raw, size, img_aug, headroom)(image, got)
    error = np.abs(got.astype(int) - wanted)
    # OpenCV looks up at 1/32 of a pixel and rounds between the steps.
    assert error.mean() < 0.6 and np.percentile(error, 99) <= 4
    assert np.abs(wanted - wanted.mean()).mean() > 20


def test_pixels_outside_the_raw_image_are_black(random):
    img_aug = np.array([[1, 0, 10], [0, 1, -5], [0, 0, 1.0]])
    image = np.full((40, 60, 3), 200, np.uint8)
    out = np.zeros((40, 60, 3), np.uint8)
    Resampler((40, 60), (40, 60), img_aug)(image, out)
    assert (out[:35, 10:] == 200).all() and not out[:, :10].any() and not out[35:].any()


def test_a_rotated_image_is_refused():
    turn = np.array([[0.9, -0.1, 0], [0.1, 0.9, 0], [0, 0, 1]])
    with pytest.raises(InputError, match="more than a scale and an offset: resize the image before step"):
        Resampler((90, 160), (64, 96), turn)
