//! The one question the front end may ask root, and its answer, as bytes.
#![forbid(unsafe_code)]
