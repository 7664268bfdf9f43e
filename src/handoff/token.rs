//! The name of one hand-off, by which the front end asks afterwards what became of it.
//!
//! Invariant: 128 bits from the system's generator, a new name for each message, so that nobody can
//! ask for another's.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; Token::OCTETS]);

impl Token {
    pub const OCTETS: usize = 16;

    /// A name nobody has used.
    pub fn fresh() -> Self {
        let mut octets = [0; Self::OCTETS];
        aws_lc_rs::rand::fill(&mut octets).expect("the library's generator never runs dry once seeded");
        Self(octets)
    }

    pub(crate) const fn of_octets(octets: [u8; Self::OCTETS]) -> Self {
        Self(octets)
    }

    pub(crate) fn octets(&self) -> &[u8; Self::OCTETS] {
        &self.0
    }
}

/// Whoever knows it can say that the message shall not come in, so it is not for logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
