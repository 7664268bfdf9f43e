//! What is sent, and how the far end knows that it came whole.
//!
//! A message starts with `X-Load-Id: RUN-NUMBER-DIGEST`; the digest covers every byte after that line. Relays add their
//! fields above it, so everything below it must arrive exactly as it left.

const FIELD: &[u8] = b"X-Load-Id: ";

/// The part that all messages of a run share: its digest and its wire form are made once.
pub(crate) struct Text {
    digest: u64,
    stuffed: Vec<u8>,
}

impl Text {
    /// About `size` bytes: a small header, then lines of 76 characters, some of which start with a dot.
    pub(crate) fn new(size: usize) -> Text {
        let mut plain = b"From: <load@relay.test>\r\nTo: <someone@far.test>\r\nDate: Fri, 20 Nov 2026 12:00:00 +0000\r\n\
            Message-ID: <load@relay.test>\r\nSubject: load\r\n\r\n"
            .to_vec();
        let mut line = 0u32;
        while plain.len() + 60 < size {
            let start = if line % 16 == 7 { "." } else { "" };
            let mut text = format!("{start}{line:08} the quick brown fox jumps over the lazy dog and runs on and on");
            text.truncate((size - plain.len()).min(76));
            plain.extend_from_slice(text.as_bytes());
            plain.extend_from_slice(b"\r\n");
            line += 1;
        }
        let mut stuffed = Vec::with_capacity(plain.len() + 1024);
        for line in plain.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        Text { digest: digest(&plain), stuffed }
    }

    /// Appends message `number` as it goes over the wire after DATA, final dot included.
    pub(crate) fn write(&self, run: u32, number: u64, wire: &mut Vec<u8>) {
        wire.extend_from_slice(FIELD);
        wire.extend_from_slice(format!("{run}-{number}-{:016x}\r\n", self.digest).as_bytes());
        wire.extend_from_slice(&self.stuffed);
    }
}

/// What a received message says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Whole { run: u32, number: u64 },
    Damaged { run: u32 },
    Stranger,
}

/// Judges one message as received: still dot-stuffed, without the final dot. `scratch` saves an allocation each time.
pub(crate) fn judge(stuffed: &[u8], scratch: &mut Vec<u8>) -> Arrival {
    unstuff(stuffed, scratch);
    let Some(start) = field_start(scratch) else {
        return Arrival::Stranger;
    };
    let after_name = &scratch[start + FIELD.len()..];
    let Some(end) = memchr::memmem::find(after_name, b"\r\n") else {
        return Arrival::Stranger;
    };
    let (value, rest) = (&after_name[..end], &after_name[end + 2..]);

    let mut parts = std::str::from_utf8(value).unwrap_or("").split('-');
    let run = parts.next().and_then(|part| part.parse().ok());
    let number = parts.next().and_then(|part| part.parse().ok());
    let wanted = parts.next().and_then(|part| u64::from_str_radix(part, 16).ok());
    match (run, number, wanted) {
        (Some(run), Some(number), Some(wanted)) if wanted == digest(rest) => Arrival::Whole { run, number },
        (Some(run), _, _) => Arrival::Damaged { run },
        (None, _, _) => Arrival::Stranger,
    }
}

fn field_start(message: &[u8]) -> Option<usize> {
    memchr::memmem::find_iter(message, FIELD).find(|at| *at == 0 || message[..*at].ends_with(b"\r\n"))
}

fn unstuff(stuffed: &[u8], plain: &mut Vec<u8>) {
    plain.clear();
    let mut from = usize::from(stuffed.starts_with(b"."));
    for at in memchr::memmem::find_iter(stuffed, b"\r\n.") {
        plain.extend_from_slice(&stuffed[from..at + 2]);
        from = at + 3;
    }
    plain.extend_from_slice(&stuffed[from..]);
}

/// A fast checksum against accidents, not against attackers.
fn digest(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| (state.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    let mut words = bytes.chunks_exact(8);
    let mut state = mix(FACTOR, bytes.len() as u64);
    for word in &mut words {
        state = mix(state, u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    words.remainder().iter().fold(state, |state, byte| mix(state, u64::from(*byte)))
}
