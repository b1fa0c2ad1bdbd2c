"""The feasible-trajectory generator: what comes next, state and return-to-go, from all that came before."""

import torch
from torch import Tensor, nn

from common.nn.causal_transformer import CausalTransformer


class TrajectoryGenerator(nn.Module):
    """A causal transformer over tokens (state, return) that predicts by how much the next differ from the last.

    Args: state_dim S; length: tokens at most, of the history and of all that is written behind it; residual: False
        predicts the next token itself (as released); transformer: arguments of `CausalTransformer`.
    States and returns are normalised.
    """

    def __init__(self, state_dim: int, length: int, residual: bool = True, **transformer):
        super().__init__()
        self.residual = residual
        self.net = CausalTransformer(state_dim + 1, state_dim + 1, length, **transformer)

    def predict(self, tokens: Tensor) -> Tensor:
        """(B, L, S + 1) -> the tokens that follow each, given it and those before."""
        out = self.net(tokens)
        return tokens + out if self.residual else out

    def errors(self, states: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the next state and of the next return, teacher forcing: states (B, L, S), returns
        (B, L)."""
        tokens = torch.cat([states, returns[..., None]], -1)
        error = (self.predict(tokens[:, :-1]) - tokens[:, 1:]).square()
        return error[..., :-1].mean(), error[..., -1].mean()

    def step(self, token: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """The token (B, S + 1) behind `token`, which stands at `place`, and the cache with it."""
        out, cache = self.net.step(token, cache, place)
        return (token + out if self.residual else out), cache

    @torch.no_grad()
    def rollout(self, states: Tensor, returns: Tensor, steps: int, noise: Tensor | None = None) -> Tensor:
        """(B, steps, S): what follows a history of states (B, n, S) that asked for returns (B, n).

        noise (B, steps, S): added to every state that is written, before it is read on. `steps` network calls behind
        the n - 1 that read the history; without a mask (as released) all tokens are read anew each time.
        """
        tokens = torch.cat([states, returns[..., None]], -1)
        if not self.net.causal:
            for i in range(steps):
                tokens = torch.cat([tokens, self._noisy(self.predict(tokens)[:, -1:], noise, i)], 1)
            return tokens[:, -steps:, :-1]
        cache, written = self.net.start(len(tokens)), []
        places = torch.arange(self.net.length, device=tokens.device)
        for i in range(tokens.shape[1] + steps - 1):
            token = tokens[:, i] if i < tokens.shape[1] else written[-1]
            following, cache = self.step(token, cache, places[i])
            if i >= tokens.shape[1] - 1:
                written.append(self._noisy(following, noise, len(written)))
        return torch.stack(written, 1)[..., :-1]

    @staticmethod
    def _noisy(token: Tensor, noise: Tensor | None, i: int) -> Tensor:
        """A written token (B, S + 1) or (B, 1, S + 1)."""
        if noise is None:
            return token
        extra = torch.cat([noise[:, i], noise.new_zeros(len(noise), 1)], -1)
        return token + (extra if token.dim() == 2 else extra[:, None])
