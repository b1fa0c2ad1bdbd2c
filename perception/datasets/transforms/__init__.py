from .bev import AugmentBEV, FilterBoxRange, augment_boxes, bev_augmentation
from .images import LoadAndAugmentImages, image_augmentation, read_image
from .lidar import LoadLidarDepth, depth_maps, read_sweep
from .pack import PackBEVInputs

__all__ = [
    "AugmentBEV",
    "FilterBoxRange",
    "LoadAndAugmentImages",
    "LoadLidarDepth",
    "PackBEVInputs",
    "augment_boxes",
    "bev_augmentation",
    "depth_maps",
    "image_augmentation",
    "read_image",
    "read_sweep",
]
