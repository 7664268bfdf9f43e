//! Counts the `Received:` fields of a message while it streams by, so that a message in circles is noticed
//! (RFC 5321 §6.3).

/// Servers a message may have passed; RFC 5321 §6.3 asks for 100 at least.
pub const HOP_LIMIT: u32 = 100;

const FIELD: &[u8] = b"received:";

/// Reads the header part, piece by piece, and stops looking at the empty line.
#[derive(Debug)]
pub struct Hops {
    seen: u32,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// So many octets of `received:` matched at the start of this line.
    Matching(usize),
    /// Somewhere in a line that is no such field.
    Inside,
    /// After the empty line.
    Body,
}

impl Default for Hops {
    fn default() -> Self {
        Self { seen: 0, at: At::Matching(0) }
    }
}

impl Hops {
    pub fn read(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some((&octet, after)) = rest.split_first() {
            self.at = match (self.at, octet) {
                (At::Body, _) => return,
                (At::Matching(0), b'\r') => At::Matching(0),
                (At::Matching(0), b'\n') => At::Body,
                (At::Matching(matched), octet) if FIELD.get(matched) == Some(&octet.to_ascii_lowercase()) => {
                    self.seen += u32::from(matched + 1 == FIELD.len());
                    if matched + 1 == FIELD.len() { At::Inside } else { At::Matching(matched + 1) }
                }
                (At::Matching(_) | At::Inside, _) => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        rest = &rest[end + 1..];
                        self.at = At::Matching(0);
                        continue;
                    }
                    None => {
                        self.at = At::Inside;
                        return;
                    }
                },
            };
            rest = after;
        }
    }

    pub fn too_many(&self) -> bool {
        self.seen > HOP_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pieces: &[&[u8]]) -> u32 {
        let mut hops = Hops::default();
        pieces.iter().for_each(|piece| hops.read(piece));
        hops.seen
    }

    #[test]
    fn counts_fields_of_the_header_only() {
        let message = b"Received: a\r\n\tReceived: folded\r\nRECEIVED: b\r\nX-Received: c\r\nReceived-SPF: d\r\n\r\nReceived: body\r\n";

        assert_eq!(count(&[message]), 2);
        for at in 0..message.len() {
            assert_eq!(count(&[&message[..at], &message[at..]]), 2, "split at {at}");
        }
    }
}
