"""Trajectory Diffuser (arXiv 2407.16142): a feasible trajectory, written token by token, and improved by diffusion."""
