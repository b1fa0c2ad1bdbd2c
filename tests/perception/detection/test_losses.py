import pytest
import torch

from perception.detection.losses import imitation_loss


def maps():
    g = torch.Generator().manual_seed(0)
    student, target = torch.randn(2, 3, 5, 4, 6, generator=g, dtype=torch.float64)
    return student, target, torch.rand(3, 1, 4, 6, generator=g, dtype=torch.float64)


def test_the_imitation_loss_is_mask_squared_over_mask():
    student, target, mask = maps()
    total = sum(
        (mask[b, 0, y, x] * (student[b, c, y, x] - target[b, c, y, x])) ** 2
        for b in range(3)
        for c in range(5)
        for y in range(4)
        for x in range(6)
    )
    assert imitation_loss(student, target, mask).item() == pytest.approx((total / mask.sum()).item(), rel=1e-12)


def test_samples_with_an_empty_mask_change_nothing():
    student, target, mask = maps()
    mask[1] = 0
    keep = [0, 2]
    alone = imitation_loss(student[keep], target[keep], mask[keep])
    assert imitation_loss(student, target, mask).item() == pytest.approx(alone.item(), rel=1e-12)


def test_the_gradient_is_twice_the_masked_difference_and_the_target_gets_none():
    student, target, mask = maps()
    imitation_loss(student.requires_grad_(), target.requires_grad_(), mask).backward()
    wanted = 2 * mask**2 * (student - target) / mask.sum()
    torch.testing.assert_close(student.grad, wanted.detach())
    assert target.grad is None


def test_maps_of_another_shape_are_refused_with_both_shapes():
    student, target, mask = maps()
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 6\).*\(3, 5, 4, 6\)"):
        imitation_loss(student, target[:, :4], mask)
