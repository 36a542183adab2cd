"""Weights from and to the peers: transformers, fairseq and fairseq2. ``lalia convert`` is ``arguments.py``."""
