"""Synthesis with ONNX: `graphs` writes the models, `voice` runs them without PyTorch."""
