"""Package a model of any framework with the problem that it solves, and run it anywhere with one call."""
