//! What one exchange does: carried in the path of its request, so that both ends know it.

use crate::engine::reactor::random::Random;

/// How the upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy::tests) enum Answer {
    Length,
    Chunked,
    /// The end of the connection is the end of the body.
    Close,
    /// Chunks with long silences between them.
    Events,
    /// Says `connection: close`.
    Last,
    /// An error status with a body.
    Error,
    /// 103 first.
    Hints,
    /// Answers as soon as the head is there, then reads the body.
    Early,
    /// Answers as soon as the head is there and closes.
    EarlyClose,
    /// Resets instead of an answer.
    Reset,
    /// Closes instead of an answer.
    Silent,
    /// Resets in the middle.
    CutReset,
    /// Closes in the middle of a body with a length.
    CutLength,
    /// Closes in the middle of a chunked body.
    CutChunked,
    /// 101, then an echo.
    Upgrade,
}

const ALL: [(Answer, char); 15] = [
    (Answer::Length, 'l'),
    (Answer::Chunked, 'c'),
    (Answer::Close, 'e'),
    (Answer::Events, 's'),
    (Answer::Last, 'z'),
    (Answer::Error, '5'),
    (Answer::Hints, 'i'),
    (Answer::Early, 'y'),
    (Answer::EarlyClose, 'w'),
    (Answer::Reset, 'r'),
    (Answer::Silent, 'n'),
    (Answer::CutReset, 'h'),
    (Answer::CutLength, 't'),
    (Answer::CutChunked, 'k'),
    (Answer::Upgrade, 'u'),
];

/// One exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy::tests) struct Script {
    pub(in crate::proxy::tests) id: u64,
    pub(in crate::proxy::tests) answer: Answer,
    /// Bytes of the request's body (through a tunnel: bytes that are echoed).
    pub(in crate::proxy::tests) sends: usize,
    /// Bytes of the response's body.
    pub(in crate::proxy::tests) gets: usize,
    /// Silence of the upstream before and between what it sends, ms.
    pub(in crate::proxy::tests) pause_ms: u64,
}

impl Script {
    pub(in crate::proxy::tests) fn draw(
        random: &mut Random,
        id: u64,
        most: usize,
        odd: u16,
    ) -> Self {
        let among = if random.chance(odd) { ALL.len() - 1 } else { 7 };
        let (answer, _) = ALL[random.below(among as u64) as usize];
        let size = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => random.below(64) as usize,
            _ => random.below(most as u64) as usize,
        };
        Self {
            id,
            answer,
            sends: size(random),
            gets: size(random),
            pause_ms: [0, 0, 3, 40, 700][random.below(5) as usize],
        }
    }

    pub(in crate::proxy::tests) fn path(&self) -> String {
        let code = ALL.iter().find(|(answer, _)| *answer == self.answer);
        let code = code.map_or('l', |(_, code)| *code);
        let Self {
            id,
            sends,
            gets,
            pause_ms,
            ..
        } = self;
        format!("/{id}/{code}/{sends}/{gets}/{pause_ms}")
    }

    pub(in crate::proxy::tests) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let id = parts.next()?.parse().ok()?;
        let code = parts.next()?.chars().next()?;
        let (answer, _) = ALL.iter().find(|(_, letter)| *letter == code)?;
        Some(Self {
            id,
            answer: *answer,
            sends: parts.next()?.parse().ok()?,
            gets: parts.next()?.parse().ok()?,
            pause_ms: parts.next()?.parse().ok()?,
        })
    }

    /// The upstream does nothing that could cost an answer, this one's or the next one's.
    pub(in crate::proxy::tests) fn is_benign(&self) -> bool {
        use Answer::{Chunked, Close, Error, Events, Hints, Last, Length, Upgrade};
        matches!(
            self.answer,
            Length | Chunked | Close | Events | Last | Error | Hints | Upgrade
        )
    }

    /// The complete answer never comes from the upstream.
    pub(in crate::proxy::tests) fn never_completes(&self) -> bool {
        use Answer::{CutChunked, CutLength, CutReset, Reset, Silent};
        matches!(
            self.answer,
            Reset | Silent | CutReset | CutLength | CutChunked
        )
    }
}
