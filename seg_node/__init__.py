"""seg_node: semantic segmentation of camera topics that spends compute where it is needed."""

__version__ = "0.1.0"
