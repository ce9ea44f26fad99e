"""Where the network drives: a checkpoint becomes one verified streaming ONNX graph."""
