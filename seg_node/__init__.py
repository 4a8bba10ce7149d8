"""seg_node: semantic segmentation of camera topics that spends compute where it is needed."""

from seg_node.loops import spinning as spinning  # before torch is loaded

__version__ = "0.1.0"
