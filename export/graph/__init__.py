"""From a PyTorch module to ONNX files: tracing, lowering, weights."""
