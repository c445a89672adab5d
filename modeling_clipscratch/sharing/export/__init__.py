"""ONNX files and the page that runs in a browser."""
