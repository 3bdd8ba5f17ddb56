//! fisec-runtime
