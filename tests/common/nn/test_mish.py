import pytest
import torch
import torch.nn.functional as F

from common.nn.mish import Mish, mish
from common.nn.unet1d import ConditionalUNet1D


def test_the_training_form_is_mish_and_has_its_slope_from_one_end_of_float32_to_the_other():
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([-1e30, -200.0, 88.0, 89.0, 200.0, 1e30])])
    exact = x.double().requires_grad_()
    lean = x.clone().requires_grad_()
    expected, found = F.mish(exact), mish(lean)
    assert "MishOnCPU" in found.grad_fn.name()
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-9)  # float32: 1.2e-7 an operation
    torch.testing.assert_close(lean.grad.double(), exact.grad, rtol=0, atol=1e-6)


def test_its_gradient_is_the_numerical_one():
    x = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)


def test_without_gradients_few_elements_go_through_pytorchs_kernel_and_many_come_out_the_same():
    few, many = torch.randn(100, requires_grad=True), 5 * torch.randn(3, 5000)
    with torch.no_grad():
        assert torch.equal(Mish()(few), F.mish(few))
        torch.testing.assert_close(Mish()(many), F.mish(many), rtol=2e-6, atol=1e-7)
        assert not torch.equal(Mish()(many), F.mish(many))  # else the quick form was not taken


def test_an_export_holds_pytorchs_mish_whatever_the_size():
    graph = torch.export.export(Mish(), (torch.randn(3, 5000),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.mish.default]


def test_a_network_learns_the_same_with_either(monkeypatch):
    """Losses of five steps agree to float32's rounding: the speed is not bought with another function."""
    import common.nn.embeddings
    import common.nn.unet1d

    def losses():
        torch.manual_seed(0)
        net = ConditionalUNet1D(3, 5, widths=(16, 32), groups=4, level_width=16)
        optimiser, found = torch.optim.SGD(net.parameters(), lr=0.1), []
        x, t, observation = torch.randn(8, 16, 3), torch.rand(8, 16, 1), torch.randn(8, 5)
        for _ in range(5):
            loss = (net(x, t, net.project(observation)) - x).square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            found.append(loss.item())
        return found

    ours = losses()
    monkeypatch.setattr(common.nn.unet1d, "mish", F.mish)
    monkeypatch.setattr(common.nn.unet1d, "Mish", torch.nn.Mish)
    monkeypatch.setattr(common.nn.embeddings, "Mish", torch.nn.Mish)
    assert ours == pytest.approx(losses(), rel=1e-5) and ours[-1] < ours[0]
