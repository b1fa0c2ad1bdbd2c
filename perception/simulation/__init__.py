"""A procedural driving world, ray-cast into cameras and LiDAR, written as a nuScenes data set."""
