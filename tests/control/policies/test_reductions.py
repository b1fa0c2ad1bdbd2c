"""One step for every method: what reduces to what, bit for bit (checks 2 and 17 of the sheet)."""

import pytest
import torch

from common.diffusion.analytic import gaussian
from common.diffusion.process import vp_cosine
from common.diffusion.samplers import ddim, ddpm
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan, start_state, stream

from .conftest import fitted, observations, tiny_model


@pytest.mark.parametrize("evaluations, eta", [(10, 0.0), (100, 1.0)], ids=["DDIM", "DDPM"])
def test_equal_levels_are_diffusion_policys_sampler_bit_for_bit(windows, evaluations, eta):
    """The network with a level per position under the streaming step, against the sampler on whole sequences."""
    model = tiny_model(horizon=16)
    model.fit(windows)
    process, g = model.process, torch.Generator().manual_seed(0)
    noise, fresh = torch.randn(2, 2, 16, 3, generator=g)
    z = torch.randn(evaluations, 2, 16, 3, generator=g)
    plan = chunk_plan(16, 8, evaluations, eta=eta)
    one = torch.ones(2, 16, 1)
    levels = torch.stack([one + (0 - one) * (j / evaluations) for j in range(evaluations + 1)])
    with torch.no_grad():
        condition = model.eval().condition({"state": torch.randn(2, 2, 3, generator=g)})

        def denoise(x, t):
            return model.denoiser(x, t, condition)

        a, _ = stream(denoise, process, plan, start_state(process, plan, noise), fresh, z)
        start = process.sigma(torch.ones(())) * noise
        b = ddpm(denoise, process, start, levels, noise=z) if eta else ddim(denoise, process, start, levels)
    assert torch.equal(a, b[:, :8]) and a.std() > 0.1


@pytest.mark.parametrize("prefix, eta", [("renoise", 1.0), ("renoise", 0.0), ("released", 0.0)])
def test_with_one_chunk_the_second_call_is_diffusion_policys_too_if_the_prefix_is_renoised(prefix, eta):
    """Check 2, beyond the first call: re-noised, the prefix keeps a part alpha(1) = 5e-4 of the last action. The
    released code leaves the action as it is, which is no noise at all, and DDIM never draws any other."""
    process, F64 = vp_cosine(100), torch.float64
    sdp, dp = ladder_plan(16, 8, 100, first=1, prefix=prefix, eta=eta), chunk_plan(16, 8, 100, first=1, eta=eta)
    t = torch.arange(16, dtype=F64)
    covariance = 0.25 * (-((t[:, None] - t) ** 2) / 18).exp() + 1e-3 * torch.eye(16, dtype=F64)
    denoise = gaussian(torch.full((16, 1), 0.2, dtype=F64), covariance).denoise(process)
    g = torch.Generator().manual_seed(0)
    start, again, after = torch.randn(3, 4, 17, 1, dtype=F64, generator=g)
    z = torch.randn(2, 100, 4, 16, 1, dtype=F64, generator=g) if eta else [None, None]
    _, state = stream(denoise, process, sdp, start_state(process, sdp, start[:, :16]), again[:, :16], z[0])
    assert torch.equal(state.level, torch.ones(4, 16, dtype=F64))
    second, _ = stream(denoise, process, sdp, state, after[:, :16], z[1])
    same, _ = stream(denoise, process, dp, state, after, z[1])
    assert torch.equal(second, same)
    noise = torch.cat([again[:, 15:16], again[:, :15]], 1)  # the spare row is the prefix's
    anew, _ = stream(denoise, process, dp, start_state(process, dp, noise), after, z[1])
    if prefix == "renoise":
        torch.testing.assert_close(second, anew, rtol=0, atol=2e-3)
    else:
        assert (second - anew).abs().max() > 0.02


@pytest.mark.parametrize(
    "plan", [chunk_plan(20, 8, 10, first=1), chunk_plan(20, 8, 10, first=1, eta=1.0), ladder_plan(20, 8, 5, first=1)],
    ids=["DDIM", "DDPM", "SDP"],
)  # fmt: skip
def test_with_diffusion_policys_alignment_positions_1_to_8_are_executed_in_the_robots_units(windows, plan):
    """Check 17: a network that always returns a ramp."""
    model = fitted(windows, offset=1)
    ramp = torch.linspace(-0.95, 0.95, 20)[:, None].expand(-1, 3)
    model.denoiser.net.forward = lambda x, t, condition: ramp.expand_as(x)
    policy = DiffusionPolicy(model, plan)
    policy.reset([0, 1])
    for one in observations(2, 3):
        chunk = torch.from_numpy(policy.predict_action_chunk(one))
        low, high = model.actions.low, model.actions.high
        wanted = low + (ramp[1:9] + 1) / 2 * (high - low)
        torch.testing.assert_close(chunk, wanted.expand(2, -1, -1), rtol=1e-5, atol=1e-3)
        assert (chunk[..., 2] == 7).all() and (chunk >= low).all() and (chunk <= high).all()
