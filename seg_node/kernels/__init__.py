"""Triton kernels of the block engine, and of what surrounds a network (docs/gpu.md)."""
