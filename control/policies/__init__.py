"""Diffusion policies: observation encoders, the model that is trained, and the ways to run it."""
