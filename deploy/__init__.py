"""From a trained detector to a robot: export, benchmark, and a runtime that needs numpy and onnxruntime alone."""
