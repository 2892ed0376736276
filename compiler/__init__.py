"""edgecc: ONNX models to small native libraries for one CPU."""

__version__ = "0.1.0"
