"""Benchmarks of training: step time, memory, ranks, the guard, and the gain from pretraining."""
