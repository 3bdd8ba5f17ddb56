//! fisec-onnx
