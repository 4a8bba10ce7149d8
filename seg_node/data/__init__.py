"""Pixels in and out: message conversion, bags, video, datasets and the synthetic street."""
