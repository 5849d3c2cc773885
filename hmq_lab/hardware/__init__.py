"""From a selected network to hardware: folding, integers, packed files, ONNX, costs."""
