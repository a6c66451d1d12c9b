"""Models without a framework: each output is an expression of the inputs."""
