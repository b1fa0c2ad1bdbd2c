"""Plain behaviour cloning: an MLP from the last observations to the next action. The honest small baseline."""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from common.nn.mish import Mish
from control.policies.encoders import ObservationEncoder
from control.policies.history import ObservationHistory, episode_rows
from control.policies.model import build
from control.policies.normaliser import MinMaxNormaliser
from control.policies.policy import NotReset


@MODELS.register_module()
class CloningModel(BaseModel):
    """Args: action_dim; encoders as in `DiffusionPolicyModel`; widths of the hidden layers; observed steps."""

    def __init__(self, action_dim: int, encoders: dict, widths=(256, 256), observed: int = 2, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.observed = observed
        self.encoder = ObservationEncoder({name: build(one) for name, one in encoders.items()}, observed)
        self.actions = MinMaxNormaliser(action_dim)
        layers, inputs = [], self.encoder.width
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), Mish()]
            inputs = width
        self.mlp = nn.Sequential(*layers, nn.Linear(inputs, action_dim))

    def fit(self, dataset) -> None:
        self.actions.fit(dataset.actions)
        self.encoder.fit(dataset.observations)

    def forward(self, observation: dict[str, Tensor], action: Tensor | None = None, mode: str = "tensor"):
        """mode "loss": mean squared error of the action of now, position 0 of the window; "tensor": (B, A)."""
        out = self.mlp(self.encoder(observation))
        return {"loss": F.mse_loss(out, self.actions(action[:, 0]))} if mode == "loss" else out


class CloningPolicy:
    """Acts for B environments; the interface of `DiffusionPolicy` as far as a rollout needs it."""

    def __init__(self, model: CloningModel):
        self.model, self._history = model.eval(), None

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes as `DiffusionPolicy.reset` does; the seeds only say how many environments there are."""
        if mask is None or self._history is None:
            batch = len(seeds if seeds is not None else [0] if mask is None else mask)
            self._history = ObservationHistory.of(self.model.encoder.encoders, self.model.observed, batch)
        for index in episode_rows(len(self._history), seeds, mask):
            self._history.restart(index)

    @torch.no_grad()
    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A)."""
        if self._history is None:
            raise NotReset("the policy has no episode: call reset(seeds) before asking for actions")
        self._history.append(observation)
        device = self.model.actions.low.device
        seen = {name: value.to(device) for name, value in self._history.stacked().items()}
        return self.model.actions.inverse(self.model(seen).clamp(-1, 1)).cpu().numpy()
