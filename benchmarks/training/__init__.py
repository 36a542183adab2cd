"""Benchmarks of training: the step, memory, ranks, the guard, and what pretraining brings."""
