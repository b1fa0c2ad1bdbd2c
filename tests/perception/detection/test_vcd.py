"""The assembled detector: prior, history, distillation (build-sheet checks 10, 11, 14, 15, 19)."""

import copy
import gc

import pytest
import torch

from common.errors import ConfigError
from perception.detection.distiller import Distiller
from perception.detection.history import cur2past


def apprentice(detector, checkpoint, **options):
    """The apprentice of a saved expert. The expert's backbone is a module in these tests, so it is built by hand."""
    distiller = Distiller(expert={}, checkpoint=str(checkpoint), **options)
    distiller.expert = detector(lidar_prior=True).eval().requires_grad_(False)
    distiller.expert.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    student = detector()
    student.distiller = distiller
    return student


def total(losses):
    return sum(value for value in losses.values())


def test_without_a_lidar_point_the_expert_is_the_camera_network_bit_for_bit(detector, batch):
    inputs, _ = batch(0)
    inputs["lidar_depth"].zero_()
    expert, camera = detector(lidar_prior=True).eval(), detector().eval()
    with torch.no_grad():
        torch.testing.assert_close(expert.features(inputs, None).bev, camera.features(inputs, None).bev, rtol=0, atol=0)


def test_with_a_point_on_every_pixel_detection_gives_no_gradient_to_the_depth_logits(detector, batch):
    inputs, samples = batch(0)
    inputs["lidar_depth"].fill_(5.0)
    expert = detector(lidar_prior=True)
    kept = {}
    lift = expert.core.lift

    def keep(*arguments):
        kept["lifted"] = lift(*arguments)
        kept["lifted"].depth_logits.retain_grad()
        return kept["lifted"]

    expert.core.lift = keep
    losses = expert.loss(inputs, samples)
    total({k: v for k, v in losses.items() if k != "loss_depth"}).backward(retain_graph=True)
    logits = kept["lifted"].depth_logits
    assert logits.grad is None or not logits.grad.any()
    losses["loss_depth"].backward()
    assert logits.grad.abs().sum() > 0


def test_expert_baseline_and_apprentice_have_the_same_state_dict_keys(detector, expert_checkpoint):
    keys = detector().state_dict().keys()
    assert detector(lidar_prior=True).state_dict().keys() == keys
    assert apprentice(detector, expert_checkpoint[0]).state_dict().keys() == keys


def test_the_expert_is_outside_optimiser_copy_and_checkpoint_and_never_changes(detector, batch, expert_checkpoint):
    student = apprentice(detector, expert_checkpoint[0], trajectory_weight=1.0)
    expert = student.distiller.expert
    before = {key: value.clone() for key, value in expert.state_dict().items()}
    ours = {id(p) for p in student.parameters()}
    assert not ours & {id(p) for p in expert.parameters()}
    assert copy.deepcopy(student).distiller is student.distiller
    optimiser = torch.optim.SGD(student.parameters(), 0.01)
    student.train()
    for frame in range(3):
        losses = student.loss(*batch(frame, frame=frame))
        assert losses["loss_trajectory"] > 0
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
    assert not expert.training
    assert all(p.grad is None for p in expert.parameters())
    for key, value in expert.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_distillation_alone_pulls_the_student_towards_the_expert(detector, batch, expert_checkpoint):
    student = apprentice(detector, expert_checkpoint[0], trajectory_weight=1.0)
    optimiser = torch.optim.Adam(student.parameters(), 5e-3)
    inputs, samples = batch(0)
    values = []
    for _ in range(40):
        value = student.loss(inputs, samples)["loss_trajectory"]
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("rounding, shared", [("floor", True), ("truncate", False)])
def test_an_expert_of_equal_geometry_takes_the_students_points_and_changes_nothing(
    detector, batch, expert_checkpoint, monkeypatch, rounding, shared
):
    student = apprentice(detector, expert_checkpoint[0]).eval()
    inputs, _ = batch(0)
    expert = detector(lidar_prior=True, rounding=rounding).eval()
    expert.load_state_dict(student.distiller.expert.state_dict())
    student.distiller.expert = expert
    alone = expert.features(inputs, None).bev
    made = []
    lifted_points = expert.core.lifted_points
    monkeypatch.setattr(expert.core, "lifted_points", lambda inputs: made.append(1) or lifted_points(inputs))
    lifted = student.features(inputs, None).lifted
    found = student.distiller.expert_features(inputs, True, lifted, student.core.lift_spec)
    torch.testing.assert_close(found.bev, alone, rtol=0, atol=0)
    assert len(made) == (0 if shared else 1)


def test_the_weights_scale_the_losses(detector, batch, expert_checkpoint):
    inputs, samples = batch(0)
    grid = dict(x=(-16, 16, 1.0), y=(-16, 16, 1.0), z=(-4.0, 4.0, 1.0))

    def losses(weight):
        student = apprentice(
            detector, expert_checkpoint[0], trajectory_weight=weight, occupancy_weight=weight, occupancy_grid=grid
        )
        return student.eval().loss(inputs, samples)

    one, three = losses(1.0), losses(3.0)
    for name in ("loss_trajectory", "loss_occupancy"):
        assert one[name] > 0
        torch.testing.assert_close(three[name], 3 * one[name])


def test_a_hundred_steps_of_an_apprentice_hold_no_more_tensors_than_ten(detector, batch, expert_checkpoint):
    student = apprentice(detector, expert_checkpoint[0]).train()
    counts = []
    for step in range(100):
        total(student.loss(*batch(step % 7, frame=step))).backward()
        student.zero_grad()
        if step in (9, 99):
            gc.collect()
            counts.append(sum(isinstance(found, torch.Tensor) for found in gc.get_objects()))
    assert counts[1] <= counts[0]
    for history in (student._streams["train"], student.distiller.history):
        assert history.maps.grad_fn is None and not history.maps.requires_grad


def test_equal_weights_give_a_loss_unless_the_student_is_standardised_too(detector, batch, tmp_path):
    same = detector(lidar_prior=True)
    torch.save({"state_dict": same.state_dict()}, tmp_path / "same.pth")
    inputs, samples = batch(0)
    inputs["lidar_depth"].zero_()  # prior without points: expert and student compute the same map
    plain = apprentice(detector, tmp_path / "same.pth").eval()
    both = apprentice(detector, tmp_path / "same.pth", standardise_student=True).eval()
    assert plain.loss(inputs, samples)["loss_trajectory"] > 1e-3
    assert both.loss(inputs, samples)["loss_trajectory"] < 1e-6


def test_the_region_decides_which_centres_are_imitated(detector, batch, expert_checkpoint):
    inputs, samples = batch(0)
    losses = {}
    for region in ("trajectory", "current", "as_released"):
        student = apprentice(detector, expert_checkpoint[0], region=region).eval()
        centres = student.distiller.region_centres(inputs)
        losses[region] = student.loss(inputs, samples)["loss_trajectory"].item()
        assert centres[0].shape[1] == (1 if region == "current" else 3)
    assert len({round(value, 6) for value in losses.values()}) == 3


def test_occupancy_loss_is_zero_for_equal_depth_and_reaches_the_depth_logits_otherwise(detector, batch, tmp_path):
    same = detector(lidar_prior=True)
    torch.save({"state_dict": same.state_dict()}, tmp_path / "same.pth")
    grid = dict(x=(-16, 16, 1.0), y=(-16, 16, 1.0), z=(-4.0, 4.0, 1.0))
    inputs, samples = batch(0)
    student = apprentice(
        detector, tmp_path / "same.pth", trajectory_weight=0, occupancy_weight=4.0, occupancy_grid=grid
    )
    value = student.loss(inputs, samples)["loss_occupancy"]
    assert value > 0
    value.backward()
    assert student.core.depth_net.depth[-1].weight.grad.abs().sum() > 0
    inputs["lidar_depth"].zero_()
    assert student.loss(inputs, samples)["loss_occupancy"] == 0


@pytest.mark.parametrize("form", ["mask", "points"])
def test_a_batch_without_any_box_gives_finite_losses_and_gradients(detector, batch, expert_checkpoint, form):
    inputs, samples = batch(0)
    for sample in samples:
        sample.gt_instances_3d = sample.gt_instances_3d[torch.zeros(5, dtype=torch.bool)]
    for key in ("trajectories", "trajectories_unaligned"):
        inputs[key] = [path[:0] for path in inputs[key]]
    grid = dict(x=(-16, 16, 1.0), y=(-16, 16, 1.0), z=(-4.0, 4.0, 1.0))
    student = apprentice(detector, expert_checkpoint[0], form=form, occupancy_weight=4.0, occupancy_grid=grid)
    losses = student.loss(inputs, samples)
    assert losses["loss_trajectory"] == 0 and losses["loss_occupancy"] == 0
    assert all(torch.isfinite(value).all() for value in losses.values())
    total(losses).backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0  # of the heatmaps and the depth


def test_interleaved_sequences_equal_each_run_alone_and_a_start_resets_only_its_entry(detector, batch):
    model = detector().eval()
    frames = [batch(frame, batch=2, frame=frame, speed=1.7)[0] for frame in range(5)]
    for frame in frames:
        frame["lidar2global"][1, 0, 3] += 40 + 3 * frame["lidar2global"][1, 1, 3]
    frames[3]["start"][:] = torch.tensor([False, True])
    with torch.no_grad():
        together, history = [], None
        for frame in frames:
            features = model.features(frame, history)
            history = features.history
            together.append(features.bev)
        for entry in range(2):
            history = None
            for number, frame in enumerate(frames):
                one = {k: v[entry : entry + 1] for k, v in frame.items()}
                features = model.features(one, history)
                history = features.history
                torch.testing.assert_close(features.bev[0], together[number][entry], rtol=1e-4, atol=1e-5)
        fresh = model.features({k: v[1:] for k, v in frames[3].items()}, None).bev
    torch.testing.assert_close(together[3][1], fresh[0], rtol=1e-4, atol=1e-5)
    assert (together[3][0] - model.features({k: v[:1] for k, v in frames[3].items()}, None).bev[0]).abs().max() > 1e-3


def test_history_switched_off_is_every_frame_on_its_own_until_it_is_enabled(detector, batch):
    model = detector(history_at_start=False).eval()
    frames = [batch(frame, frame=frame)[0] for frame in range(2)]
    with torch.no_grad():
        history = model.features(frames[0], None).history
        alone = model.features(frames[1], None).bev
        torch.testing.assert_close(model.features(frames[1], history).bev, alone)
        model.enable_history()
        assert (model.features(frames[1], history).bev - alone).abs().max() > 1e-4


def test_evaluation_uses_the_history_even_of_a_model_that_trains_without(detector, batch):
    model, whole = detector(history_at_start=False).eval(), detector().eval()
    for frame in range(2):
        inputs, samples = batch(frame, batch=1, frame=frame)
        found = model.predict(inputs, samples)
        boxes = found[0].pred_instances_3d.bboxes_3d.tensor.clone()
        wanted = whole.predict(inputs, samples)[0].pred_instances_3d.bboxes_3d.tensor
        torch.testing.assert_close(boxes, wanted, rtol=0, atol=0)


def test_no_gradient_enters_the_history(detector, batch):
    model = detector()
    first = model.features(batch(0)[0], None)
    assert not first.history.maps.requires_grad
    second = model.features(batch(1, frame=1)[0], first.history)
    second.bev.sum().backward()
    assert first.history.maps.grad is None


def test_the_exported_graph_computes_what_the_detector_does(detector, batch):
    from perception.detection.depth_net import camera_vector

    model = detector().eval()
    first, second = batch(0, batch=1)[0], batch(1, batch=1, frame=1)[0]
    with torch.no_grad():
        history = model.features(first, None).history
        features = model.features(second, history)
        wanted = model.core.head(features.bev)
        index = model.core.pool_index(second)
        camera = camera_vector(*(second[key] for key in ("cam2img", "img_aug", "bev_aug", "cam2lidar")))
        motion = cur2past(history.bev2global, second["lidar2global"]).float()
        got = model.core(
            second["imgs"], camera, index.depth, index.feature, index.cell, history.maps, motion, second["start"]
        )
    torch.testing.assert_close(got.pop("next_history"), features.history.maps)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)


def test_runtime_state_carries_both_histories(detector, batch, expert_checkpoint):
    student = apprentice(detector, expert_checkpoint[0]).eval()
    student.loss(*batch(0))
    state = student.runtime_state()
    wanted = student.loss(*batch(1, frame=1))
    other = apprentice(detector, expert_checkpoint[0]).eval()
    assert other.loss(*batch(1, frame=1))["loss_trajectory"] != wanted["loss_trajectory"]
    other.load_runtime_state(state)
    again = other.loss(*batch(1, frame=1))
    for name, value in wanted.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_predictions_are_boxes_per_sample(detector, batch):
    model = detector().eval()
    inputs, samples = batch(0, batch=1)
    out = model.predict(inputs, samples)
    assert len(out) == 1
    assert 0 < len(out[0].pred_instances_3d) <= 20
    assert out[0].pred_instances_3d.bboxes_3d.tensor.shape[1] == 9


def test_an_evaluation_batch_of_several_frames_is_refused_because_it_would_mix_histories(detector, batch):
    with pytest.raises(ConfigError, match="evaluation batch of 2 frames: set val and test batch_size to 1"):
        detector().eval().predict(*batch(0))


def test_an_expert_without_lidar_says_what_it_needs(detector, batch):
    inputs, _ = batch(0, lidar=False)
    with pytest.raises(ValueError, match="needs inputs\\['lidar_depth'\\]"):
        detector(lidar_prior=True).features(inputs, None)


def test_an_unknown_region_and_a_missing_expert_are_named(tmp_path):
    with pytest.raises(ConfigError, match="region is 'past'; choose one of trajectory, current, as_released"):
        Distiller(expert={}, checkpoint="x", region="past")
    with pytest.raises(FileNotFoundError, match="train the expert first"):
        Distiller(expert={}, checkpoint=str(tmp_path / "none.pth")).load_expert("cpu")


def test_an_image_of_another_size_is_refused(detector, batch):
    inputs, _ = batch(0)
    inputs["imgs"] = inputs["imgs"][..., :56]
    with pytest.raises(ValueError, match=r"imgs are \(32, 56\)"):
        detector().features(inputs, None)
