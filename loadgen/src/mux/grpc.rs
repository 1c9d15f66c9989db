//! Messages in a stream of gRPC: a flag, four bytes of length, and so many bytes.

/// Bytes in front of a message.
pub(super) const PREFIX: usize = 5;

/// Counts messages as they come in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    /// The prefix, as far as it came.
    prefix: [u8; PREFIX],
    have: u8,
    /// Bytes of the message that are to come.
    left: u32,
    count: u32,
}

impl Messages {
    /// Whole messages so far.
    pub(super) fn count(self) -> u32 {
        self.count
    }

    /// Part of one came.
    pub(super) fn in_message(self) -> bool {
        self.have > 0
    }

    /// Reads on; gives the number of messages that are whole now.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> u32 {
        let before = self.count;
        loop {
            let missing = PREFIX - usize::from(self.have);
            if missing > 0 {
                let take = missing.min(bytes.len());
                let (now, later) = bytes.split_at(take);
                let at = usize::from(self.have);
                self.prefix[at..at + take].copy_from_slice(now);
                bytes = later;
                self.have += take as u8;
                if take < missing {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
            }
            let take = bytes.len().min(self.left as usize);
            bytes = &bytes[take..];
            self.left -= take as u32;
            if self.left > 0 {
                break;
            }
            self.have = 0;
            self.count = self.count.wrapping_add(1);
        }
        self.count.wrapping_sub(before)
    }
}

/// A message with its prefix, not compressed.
pub(super) fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(message.len()).ok()?;
    let mut bytes = Vec::with_capacity(PREFIX + message.len());
    bytes.push(0);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_at_every_split() {
        let bytes = [framed(b"abc"), framed(b""), framed(&[7; 300])];
        let bytes: Vec<u8> = bytes.into_iter().flatten().flatten().collect();
        for size in 1..=bytes.len() {
            let mut messages = Messages::default();
            let parts = bytes.chunks(size);
            let count: u32 = parts.map(|part| messages.feed(part)).sum();
            assert_eq!((count, messages.count()), (3, 3));
            assert!(!messages.in_message());
        }
        let mut messages = Messages::default();
        assert_eq!(messages.feed(&bytes[..3]), 0);
        assert!(messages.in_message());
    }
}
