//! Where one frame ends and the next begins, for who passes a session's bytes on.
//!
//! It looks at headers (section 5.2) and skips what is between them: no payload is read, copied or kept, and
//! what is of extensions (reserved bits) is nobody's business here. It must never judge for others: who
//! breaks the rules is not followed any more, and that is all.

use super::frame::{self, Header};
use super::{MAX_HEADER, Opcode, Role};

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Bytes of the payload that are still to come.
    left: u64,
    /// The beginning of a header that is not whole.
    head: [u8; MAX_HEADER],
    /// Bytes of it.
    have: u8,
    role: Role,
    /// The rules were broken, or no frame may follow (section 5.5.1).
    over: bool,
}

impl Follower {
    /// For the frames that the end which is `role` reads. The next byte is the first of a frame.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            left: 0,
            head: [0; MAX_HEADER],
            have: 0,
            role,
            over: false,
        }
    }

    /// For a direction that was followed before and kept as less than this: between two frames, or `over`.
    #[must_use]
    pub fn resumed(role: Role, over: bool) -> Self {
        Self {
            over,
            ..Self::new(role)
        }
    }

    /// These bytes passed.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !self.over {
            let skipped = self.left.min(bytes.len() as u64);
            self.left -= skipped;
            // No longer than the slice is.
            bytes = &bytes[skipped as usize..];
            if bytes.is_empty() {
                return;
            }
            let had = usize::from(self.have);
            let fresh = bytes.len().min(MAX_HEADER - had);
            let known = had + fresh;
            self.head[had..known].copy_from_slice(&bytes[..fresh]);
            // Which extensions were agreed to is not known; none of them moves the length.
            self.head[0] &= 0x8f;
            match frame::read(&self.head[..known], self.role) {
                // At most `MAX_HEADER`.
                Ok(None) => {
                    self.have = known as u8;
                    return;
                }
                Ok(Some(Header {
                    opcode,
                    length,
                    size,
                    ..
                })) => {
                    bytes = &bytes[size - had..];
                    self.have = 0;
                    self.left = length;
                    self.over = opcode == Opcode::Close;
                }
                Err(_) => self.over = true,
            }
        }
    }

    /// Between two frames: one of somebody else's could stand here, a control frame even within a message
    /// (section 5.4).
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        !self.over && self.left == 0 && self.have == 0
    }

    /// No boundary comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }
}
