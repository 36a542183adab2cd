"""Conversion of weights from and to transformers, fairseq, fairseq2 and sherpa-onnx (``lalia convert``)."""
