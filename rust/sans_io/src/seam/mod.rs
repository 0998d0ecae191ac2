//! What crosses the seam to Python.

pub mod documents;
