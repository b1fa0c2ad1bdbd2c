"""Sparse 3-D convolution on occupied voxels in plain PyTorch: tables of integers first, then gathers and products."""
