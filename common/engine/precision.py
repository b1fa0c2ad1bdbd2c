"""Mixed precision in bfloat16: no loss scaling, on the GPU and on CPUs that compute in it."""

from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


def cpu_has_bfloat16() -> bool:
    """Whether oneDNN finds bfloat16 instructions; without them its emulation is slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """mmengine's wrapper whose forward passes run under autocast to bfloat16; weights, gradients of weights and the
    optimiser's state stay float32. On a CPU without bfloat16 instructions it trains in float32, and says so."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.device_type = next(p for group in self.optimizer.param_groups for p in group["params"]).device.type
        self.enabled = self.device_type != "cpu" or cpu_has_bfloat16()
        if not self.enabled:
            print_log("this CPU has no bfloat16 instructions: training in float32", "current")

    @contextmanager
    def optim_context(self, model: torch.nn.Module):
        with super().optim_context(model), torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            yield
