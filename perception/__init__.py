"""Perception arm: driving simulation, nuScenes data, camera BEV detection and its distillation."""
