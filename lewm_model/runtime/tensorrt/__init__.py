"""TensorRT engines: build, check, run."""
