"""Prepare a corpus from any source: list, segment, measure, remove duplicates, split, write shards."""
