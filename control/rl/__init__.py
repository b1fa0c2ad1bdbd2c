"""Reinforcement learning: random network distillation on stable-baselines3."""
