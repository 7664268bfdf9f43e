//! Mail with octets above 127, for servers that take none of them (RFC 6152 §3).

pub(crate) mod encode;
