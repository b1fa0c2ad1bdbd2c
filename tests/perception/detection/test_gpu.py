"""The detector on a GPU: an apprentice's training, with its expert beside it, and predictions as on the CPU."""

import pytest
import torch

from perception.detection.distiller import Distiller

pytestmark = pytest.mark.gpu
OCCUPANCY = dict(x=(-16, 16, 2.0), y=(-16, 16, 2.0), z=(-5.0, 3.0, 2.0))

DECODER = dict(score_threshold=0.0, peaks_per_task=20, max_per_task=10, circle_radius={"car": 1.0, "pedestrian": 1.0})


def moved(batch, device):
    inputs, samples = batch
    inputs = {
        key: [one.to(device) for one in value] if isinstance(value, list) else value.to(device)
        for key, value in inputs.items()
    }
    return inputs, [sample.to(device) for sample in samples]


def apprentice(detector, expert_checkpoint, device, **options):
    """An apprentice with every loss; the expert comes from its own training, the student from its initial weights."""
    path, expert = expert_checkpoint
    student = detector(lift_at="middle", decoder=DECODER).to(device).train()
    student.distiller = Distiller(
        expert={}, checkpoint=str(path), occupancy_weight=1.0, occupancy_grid=OCCUPANCY, **options
    )
    student.distiller.expert = detector(lidar_prior=True).requires_grad_(False).eval().to(device)
    student.distiller.expert.load_state_dict(expert.state_dict())
    return student


def train(model, batches):
    """Losses of two steps and the gradient of the second."""
    optimiser, found = torch.optim.SGD(model.parameters(), 0.01), []
    for inputs, samples in batches:
        optimiser.zero_grad()
        losses = model.loss(inputs, samples)
        sum(losses.values()).backward()
        optimiser.step()
        found.append({key: value.item() for key, value in losses.items()})
    return found, torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("form", ["mask", "points"])
def test_training_steps_and_predictions_are_those_of_the_cpu(detector, batch, expert_checkpoint, form, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    runs, boxes = [], []
    for device in ("cpu", "cuda"):
        model = apprentice(detector, expert_checkpoint, device, form=form)
        runs.append(train(model, [moved(batch(step, frame=step), device) for step in range(2)]))
        found = model.eval().predict(*moved(batch(5, batch=1), device))[0].pred_instances_3d
        boxes.append((found.scores_3d.cpu(), found.bboxes_3d.tensor.cpu()))
    (losses, gradients), (losses_gpu, gradients_gpu) = runs
    assert {"loss_trajectory", "loss_occupancy"} <= losses[0].keys()
    for one, other in zip(losses, losses_gpu, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    assert torch.linalg.vector_norm(gradients_gpu - gradients) < 0.01 * torch.linalg.vector_norm(gradients)
    torch.testing.assert_close(boxes[1][0], boxes[0][0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_trains_with_finite_losses_near_full_precisions(detector, batch, expert_checkpoint, dtype):
    inputs, samples = moved(batch(0), "cuda")
    full = apprentice(detector, expert_checkpoint, "cuda").loss(inputs, samples)
    model = apprentice(detector, expert_checkpoint, "cuda")
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0, enabled=dtype == torch.float16)
    with torch.autocast("cuda", dtype):
        half = model.loss(inputs, samples)
    scaler.scale(sum(half.values())).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert {key: value.item() for key, value in half.items()} == pytest.approx(
        {key: value.item() for key, value in full.items()}, rel=0.1, abs=0.02
    )
