"""RL-100 (arXiv 2510.14830): imitation, gated offline RL and online RL of a diffusion policy, and a one-step head."""
