//! What holds for any bytes, and for any two connections that talk to each other.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::codec::ResetReason;

/// Frames that mean something, some broken, with noise between them.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => (1u32..12, any::<bool>()).prop_map(|(id, end)| headers(id, GET, end)),
        2 => (1u32..12).prop_map(|id| headers(id, &[("t", "u")], true)),
        6 => (0u32..12, 0usize..40, any::<bool>()).prop_map(|(id, len, end)| data(id, &vec![b'd'; len], end)),
        2 => (0u32..12, select(&[0u32, 1, 70_000, (1 << 31) - 1][..])).prop_map(|(id, n)| window_update(id, n)),
        2 => (0u32..12).prop_map(|id| rst(id, 8)),
        2 => (1u16..10, any::<u32>()).prop_map(|(id, value)| settings(&[(id, value)])),
        3 => (0u8..11, any::<u8>(), 0u32..12, vec(any::<u8>(), 0..20))
            .prop_map(|(kind, flags, id, payload)| frame(kind, flags, id, &payload)),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// One thing that a side may do.
#[derive(Clone, Debug)]
enum Act {
    Open(bool),
    Answer(usize, bool),
    Send(usize, bool, usize, bool),
    Trailers(usize, bool),
    Release(usize, bool, usize),
    Reset(usize, bool),
    Park(bool),
    Deliver(bool, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let place = 0usize..6;
    let act = prop_oneof![
        3 => any::<bool>().prop_map(Act::Open),
        3 => (place.clone(), any::<bool>()).prop_map(|(at, end)| Act::Answer(at, end)),
        6 => (place.clone(), any::<bool>(), 0usize..50_000, any::<bool>())
            .prop_map(|(at, client, len, end)| Act::Send(at, client, len, end)),
        1 => (place.clone(), any::<bool>()).prop_map(|(at, client)| Act::Trailers(at, client)),
        4 => (place.clone(), any::<bool>(), 0usize..50_000)
            .prop_map(|(at, client, n)| Act::Release(at, client, n)),
        1 => (place, any::<bool>()).prop_map(|(at, client)| Act::Reset(at, client)),
        1 => any::<bool>().prop_map(Act::Park),
        8 => (any::<bool>(), 1usize..60_000).prop_map(|(client, len)| Act::Deliver(client, len)),
    ];
    vec(act, 0..120)
}

/// One side with its outgoing bytes.
struct Side {
    role: Role,
    settings: Arc<Settings>,
    conn: Connection,
    out: Out,
    wire: Vec<u8>,
    rest: Vec<u8>,
    held: Vec<(StreamId, usize)>,
}

impl Side {
    fn new(role: Role) -> Self {
        let settings = Arc::new(Settings {
            stream_window: 30_000,
            connection_window: 70_000,
            ..Settings::default()
        });
        Self {
            role,
            conn: Connection::new(role, Arc::clone(&settings)),
            settings,
            out: Out::default(),
            wire: Vec::new(),
            rest: Vec::new(),
            held: Vec::new(),
        }
    }

    fn collect(&mut self) {
        let payload = [b'x'; 50_000];
        let mut from = 0;
        for piece in self.out.payloads.drain(..) {
            self.wire.extend_from_slice(&self.out.bytes[from..piece.at]);
            self.wire
                .extend_from_slice(&payload[piece.start..piece.end]);
            from = piece.at;
        }
        self.wire.extend_from_slice(&self.out.bytes[from..]);
        self.out.bytes.clear();
        self.conn.written();
    }

    fn receive(&mut self, bytes: &[u8]) -> Why {
        let input = [&self.rest[..], bytes].concat();
        let mut events = Events::default();
        let consumed = self.conn.decode(1, &input, &mut events, &mut self.out);
        self.rest = input[consumed.bytes..].to_vec();
        for event in events.list {
            if let Event::Data { stream, range, .. } = event {
                self.held.push((stream, range.len()));
            }
        }
        self.collect();
        consumed.why
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same(bytes in soup(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let settings = Settings { stream_errors: true, ..Settings::default() };
        let mut whole = Bench::server(settings.clone());
        whole.feed(&bytes);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut cut = Bench::server(settings);
        for pair in cuts.windows(2) {
            if matches!(cut.feed(&bytes[pair[0]..pair[1]]), Why::Closed(_)) {
                break;
            }
            if cut.conn.park().is_some() {
                cut.park();
            }
        }
        prop_assert_eq!(&whole.notes, &cut.notes);
        prop_assert_eq!(whole.take(), cut.take());
    }

    #[test]
    fn two_sides_never_accuse_each_other(acts in acts()) {
        let mut sides = [Side::new(Role::Server), Side::new(Role::Client)];
        for act in acts {
            let mut open: Vec<StreamId> = sides[1].conn.streams.0.iter().map(|s| s.id).collect();
            open.extend(sides[0].conn.streams.0.iter().map(|s| s.id));
            let id = |at: usize| open.get(at).copied().unwrap_or(1);
            match act {
                Act::Open(end) => if let Some(id) = sides[1].conn.open() {
                    let side = &mut sides[1];
                    side.conn.send_head(id, &request("POST"), end, &mut side.out).unwrap();
                },
                Act::Answer(at, end) => {
                    let side = &mut sides[0];
                    let _ = side.conn.send_head(id(at), &response(200), end, &mut side.out);
                }
                Act::Send(at, client, len, end) => {
                    let side = &mut sides[usize::from(client)];
                    let _ = side.conn.send_data(id(at), len, end, &mut side.out);
                }
                Act::Trailers(at, client) => {
                    let side = &mut sides[usize::from(client)];
                    let mut head = Head::new();
                    head.kind = HeadKind::Trailers;
                    head.push(b"t", b"u");
                    let _ = side.conn.send_trailers(id(at), &head, &mut side.out);
                }
                Act::Release(at, client, n) => {
                    let side = &mut sides[usize::from(client)];
                    side.conn.release(id(at), n, &mut side.out);
                }
                Act::Reset(at, client) => {
                    let side = &mut sides[usize::from(client)];
                    side.conn.reset(id(at), ResetReason::Cancel, &mut side.out);
                }
                Act::Park(client) => {
                    let side = &mut sides[usize::from(client)];
                    if let Some(compact) = side.conn.park() {
                        side.conn = Connection::unpark(side.role, Arc::clone(&side.settings), &compact);
                    }
                }
                Act::Deliver(client, len) => {
                    let from = &mut sides[usize::from(client)];
                    from.collect();
                    let len = len.min(from.wire.len());
                    let bytes: Vec<u8> = from.wire.drain(..len).collect();
                    let why = sides[usize::from(!client)].receive(&bytes);
                    prop_assert_eq!(why, Why::NeedMore);
                }
            }
            for side in &mut sides {
                side.collect();
            }
        }
        // All that is held is given back and all streams end: then both windows are whole again.
        for _ in 0..40 {
            for at in [0, 1] {
                let ids: Vec<StreamId> = sides[at].conn.streams.0.iter().map(|s| s.id).collect();
                for id in ids {
                    let side = &mut sides[at];
                    side.conn.reset(id, ResetReason::Cancel, &mut side.out);
                    side.collect();
                }
                let bytes = std::mem::take(&mut sides[at].wire);
                let why = sides[1 - at].receive(&bytes);
                prop_assert_eq!(why, Why::NeedMore);
            }
        }
        for (at, other) in [(0, 1), (1, 0)] {
            let (to, from) = (&sides[at].conn, &sides[other].conn);
            prop_assert_eq!(to.streams.len(), 0);
            let begun = to.started && from.phase == super::super::connection::Phase::Open;
            if begun {
                prop_assert_eq!(i64::from(from.send_window), i64::from(to.receive_window));
                prop_assert_eq!(to.receive_window as u32 + to.taken, to.window());
            }
        }
    }
}
