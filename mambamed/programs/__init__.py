"""Networks as programs that run without mambamed: ONNX and torch.export."""
