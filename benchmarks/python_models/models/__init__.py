"""What the plain Python packages of the benchmarks hold."""
