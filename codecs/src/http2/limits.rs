//! What a peer may make this side do for nothing, and how that is noticed.
//!
//! Counting is all that happens here. Names are stable: they are counters and response details.
//!
//! | attack | limit | name |
//! |---|---|---|
//! | rapid reset, made-you-reset | half of the first 500 streams, or of all | `http2.too_many_premature_resets` |
//! | CONTINUATION flood | bytes of one head, 64 frames | `http2.continuation_flood` |
//! | PING, SETTINGS, provoked RST_STREAM | answers not written | `http2.outbound_control_frames_flood` |
//! | answers not read | frames not written | `http2.outbound_frames_flood` |
//! | RST_STREAM without streams | one for each stream | `http2.inbound_reset_frames_flood` |
//! | empty HEADERS, CONTINUATION, DATA | in a row | `http2.inbound_empty_frames_flood` |
//! | PRIORITY | for each stream | `http2.inbound_priority_frames_flood` |
//! | WINDOW_UPDATE | for each DATA frame sent | `http2.inbound_window_update_frames_flood` |

use super::settings::Settings;

/// CONTINUATION frames of one block.
pub(super) const MAX_CONTINUATIONS: u32 = 64;

/// RST_STREAM frames beyond one for each stream.
const SPARE_RESETS: u32 = 100;

/// Counters of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Streams opened by either side.
    pub(super) opened: u32,
    pub(super) data_sent: u32,
    pub(super) priorities: u32,
    pub(super) window_updates: u32,
    pub(super) resets: u32,
    pub(super) empty: u32,
    /// Streams of the peer that ended, and those of them that ended before our answer began.
    pub(super) ended: u32,
    pub(super) premature: u32,
}

impl Counts {
    pub(super) fn opened(&mut self) {
        self.opened = self.opened.saturating_add(1);
    }

    pub(super) fn data_sent(&mut self) {
        self.data_sent = self.data_sent.saturating_add(1);
    }

    /// A HEADERS, CONTINUATION or DATA frame; `empty` when it carries and ends nothing.
    pub(super) fn content(&mut self, empty: bool, settings: &Settings) -> Result<(), &'static str> {
        self.empty = if empty {
            self.empty.saturating_add(1)
        } else {
            0
        };
        check(
            self.empty <= settings.max_empty_frames,
            "http2.inbound_empty_frames_flood",
        )
    }

    pub(super) fn priority(&mut self, settings: &Settings) -> Result<(), &'static str> {
        self.priorities = self.priorities.saturating_add(1);
        let most = u64::from(settings.max_priority_frames) * (1 + u64::from(self.opened));
        check(
            u64::from(self.priorities) <= most,
            "http2.inbound_priority_frames_flood",
        )
    }

    pub(super) fn window_update(&mut self, settings: &Settings) -> Result<(), &'static str> {
        self.window_updates = self.window_updates.saturating_add(1);
        let sent = u64::from(settings.max_window_updates) * u64::from(self.data_sent);
        let most = 5 + 2 * (u64::from(self.opened) + sent);
        check(
            u64::from(self.window_updates) <= most,
            "http2.inbound_window_update_frames_flood",
        )
    }

    pub(super) fn reset(&mut self) -> Result<(), &'static str> {
        self.resets = self.resets.saturating_add(1);
        check(
            self.resets <= self.opened.saturating_add(SPARE_RESETS),
            "http2.inbound_reset_frames_flood",
        )
    }

    /// A stream of the peer ended.
    pub(super) fn ended(
        &mut self,
        premature: bool,
        settings: &Settings,
    ) -> Result<(), &'static str> {
        self.ended = self.ended.saturating_add(1);
        if !premature {
            return Ok(());
        }
        self.premature = self.premature.saturating_add(1);
        // Below that many streams: not even if all that are to come were in order.
        let of = self.ended.max(settings.max_premature_resets);
        check(
            u64::from(self.premature) * 2 < u64::from(of),
            "http2.too_many_premature_resets",
        )
    }
}

fn check(fine: bool, name: &'static str) -> Result<(), &'static str> {
    if fine { Ok(()) } else { Err(name) }
}
