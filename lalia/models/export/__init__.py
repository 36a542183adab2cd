"""Recognisers as they run after training: the operators of an ONNX graph, whole clips and streaming."""
