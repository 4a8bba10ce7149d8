"""Writes the networks of a model for other run times: ONNX, torch packages, TensorRT engines."""
