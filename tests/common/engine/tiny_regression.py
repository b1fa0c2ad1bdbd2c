"""A small real training for the engine's tests: dropout, batch norm, random augmentation, a stream's history."""

import os
import signal

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset


class LineData(Dataset):
    """y = sum(x) with noise; an item is asked for by (index, draw), its augmentation depends on the draw alone."""

    metainfo = {"classes": ("line",)}

    def __init__(self, length=24, seed=3, augment=True, unseeded_noise=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(length, 4, generator=generator)
        self.y = self.x.sum(1) + 0.1 * torch.randn(length, generator=generator)
        self.seed, self.augment, self.unseeded_noise = seed, augment, unseeded_noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, item):
        index, draw = item if isinstance(item, tuple) else (item, None)
        if draw is not None and draw == int(os.environ.get("TINY_KILL_AT_DRAW", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        x = self.x[index].clone()
        if self.augment and draw is not None:
            x += 0.1 * torch.randn(4, generator=torch.Generator().manual_seed(self.seed * 100_003 + draw))
        x += self.unseeded_noise * float(np.random.randn())
        return {"x": x, "y": self.y[index]}


class DrawSampler:
    """An endless shuffled stream of (index, draw), dealt to the ranks, that can start at any iteration."""

    def __init__(self, dataset, batch_size, seed=None):
        self.dataset, self.seed = dataset, seed or 0
        self.rank, self.world = get_dist_info()
        self.batch_size, self.start = batch_size, 0
        self.started_at = []

    def set_start(self, iteration):
        self.start = iteration

    def __iter__(self):
        self.started_at.append(self.start)
        draw = self.start * self.batch_size * self.world + self.rank
        while True:
            epoch, place = divmod(draw, len(self.dataset))
            order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.seed + epoch))
            yield int(order[place]), draw
            draw += self.world

    def __len__(self):
        return len(self.dataset)


class Regressor(BaseModel):
    """Dropout, batch norm, and a history of the stream that enters the output once it is enabled."""

    def __init__(self, dropout=0.2, batch_norm=True):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(8, 1)
        self.uses_history = False
        self.history = torch.zeros(8)

    def init_weights(self):
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight, std=0.5)
            nn.init.zeros_(layer.bias)

    def enable_history(self):
        self.uses_history = True
        self.history = torch.zeros(8)

    def runtime_state(self):
        return {"history": self.history.clone()}

    def load_runtime_state(self, state):
        self.history = state["history"]

    def forward(self, x, y, mode="tensor"):
        x, y = torch.stack(list(x)), torch.stack(list(y))
        hidden = self.dropout(self.norm(self.first(x)).relu())
        if self.uses_history:
            hidden = hidden + 0.1 * self.history
            self.history = 0.9 * self.history + hidden.detach().mean(0)
        error = (self.last(hidden).squeeze(1) - y).square()
        return {"loss": error.mean()} if mode == "loss" else [{"error": value} for value in error]


class MeanError(BaseMetric):
    default_prefix = "line"

    def process(self, data_batch, data_samples):
        self.results.extend(float(sample["error"]) for sample in data_samples)

    def compute_metrics(self, results):
        return {"error": float(np.mean(results))}
