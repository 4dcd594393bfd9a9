"""How the shipped bundles were made: each recipe writes its `model.onnx` again, byte for byte."""
