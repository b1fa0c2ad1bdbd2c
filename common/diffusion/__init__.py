"""Diffusion processes, denoisers, samplers, noise levels per position, exact teachers."""
