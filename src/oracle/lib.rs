//! fisec-oracle
