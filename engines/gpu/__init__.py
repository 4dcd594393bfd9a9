"""Models on NVIDIA GPUs: TensorRT builds and runs them, PyCUDA holds memory. Imported only when configured."""
