"""Loss primitives, one a file: pure functions of tensors, one value per sample."""
