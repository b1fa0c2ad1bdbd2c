"""LiDAR scene completion: one scan to the scene around it, by diffusion of the scan's own points."""
