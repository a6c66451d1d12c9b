"""ONNX models for neuropod, run by OpenVINO: a second backend of platform ``onnx``."""
