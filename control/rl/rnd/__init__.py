"""Random network distillation: a bonus for novelty, in a stream of reward of its own, on stable-baselines3's PPO."""
