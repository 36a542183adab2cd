"""Export of recognisers to ONNX: inference modules, graph and student folder."""
