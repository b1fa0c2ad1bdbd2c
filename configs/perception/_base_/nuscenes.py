"""nuScenes and data sets written in its format: change `data_root`, and `version` for the mini split, nothing else."""

data_root = "data/nuscenes"
version = "v1.0-trainval"
