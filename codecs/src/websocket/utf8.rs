//! UTF-8 that comes in pieces, cut anywhere.

/// Checks text piece by piece; keeps at most three bytes, of a character that is not whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    begun: [u8; 4],
    held: u8,
}

impl Utf8 {
    /// The next piece. False when no continuation could make it UTF-8.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> bool {
        while self.held > 0 {
            let Some((first, rest)) = piece.split_first() else {
                return true;
            };
            piece = rest;
            self.begun[usize::from(self.held)] = *first;
            self.held += 1;
            match std::str::from_utf8(&self.begun[..usize::from(self.held)]) {
                Ok(_) => self.held = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let begun = &piece[error.valid_up_to()..];
                self.begun[..begun.len()].copy_from_slice(begun);
                self.held = begun.len() as u8;
                true
            }
        }
    }

    /// The text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.held == 0
    }
}
