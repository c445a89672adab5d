"""Share a trained folder: model card, Hub, ONNX, web page; and convert other models to one."""
