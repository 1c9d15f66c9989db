//! Open, silent streams of clients that multiplex, while their clients are parked.
//!
//! A stream in the table of streams is wide. When its client is parked the stream is packed and moves to a
//! table of its own, under a key that the first table never gives; both connections then name it by that
//! one. Whatever happens on it wakes the client first, which brings all its streams back. An upstream
//! connection all of whose streams rest is parked itself.
//!
//! Nothing here may be on the way of a stream that is awake: that costs one look at a key's highest bit.

use std::sync::Arc;

use moorgate_codecs::StreamId;

use super::conn::Conn;
use super::facts::Endpoint;
use super::gateway::{Core, Gateway};
use super::silent::Silent;
use super::stream::Client;
use crate::engine::reactor::Reactor;
use crate::engine::slab::{Key, PagedSlab};

/// Marks keys of resting streams, and slots of parked upstreams: no table gives indices so high.
const MARK: u32 = 1 << 31;

fn marked(key: Key) -> Key {
    Key {
        index: key.index | MARK,
        ..key
    }
}

fn unmarked(key: Key) -> Key {
    Key {
        index: key.index & !MARK,
        ..key
    }
}

/// The key names a stream that rests.
pub(super) fn rests(key: Key) -> bool {
    key.index & MARK != 0
}

/// A packed stream.
#[derive(Debug)]
pub(super) struct Rest {
    /// Slot of its client.
    client: Key,
    /// Its upstream connection, or the marked slot of that.
    upstream: (Key, StreamId),
    endpoint: Option<Arc<Endpoint>>,
    stream: Silent,
}

/// What a stream takes in its table. Beside that it costs a key and a number in both connections and a dozen
/// bytes in both codecs.
#[cfg(test)]
pub(super) const REST_BYTES: usize = size_of::<Rest>() + size_of::<u32>() + 1;

const _: () = assert!(size_of::<Rest>() <= 216);

/// The streams of a worker that rest.
#[derive(Debug, Default)]
pub(super) struct Resting(PagedSlab<Rest>);

impl Resting {
    fn get_mut(&mut self, key: Key) -> Option<&mut Rest> {
        if rests(key) {
            self.0.get_key_mut(unmarked(key))
        } else {
            None
        }
    }

    pub(super) fn trim(&mut self) {
        self.0.trim();
    }
}

impl Gateway {
    /// Packs a silent stream whose client is about to be parked in `slot`. Gives its new key.
    pub(super) fn lay_to_rest(&mut self, key: Key, slot: Key) -> Option<Key> {
        let upstream = self.stream(key)?.upstream?;
        self.stream_wheel.cancel(&mut self.streams, key.index);
        let mut stream = self.streams.0.remove(key.index)?;
        self.release_silent_head(&mut stream);
        let rest = Rest {
            client: slot,
            upstream,
            endpoint: stream.endpoint.clone(),
            stream: Silent::of(stream),
        };
        let key = marked(self.packed.0.insert(rest));
        self.name_upstream_stream(upstream, key);
        Some(key)
    }

    fn name_upstream_stream(&mut self, (conn, id): (Key, StreamId), key: Key) {
        if let Some(up) = self.conn_mut(conn).and_then(Conn::up_mut) {
            up.streams.insert(id, key);
        }
    }

    /// Brings a resting stream back, with its upstream connection. Gives its new key.
    pub(super) fn raise<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        client: Client,
    ) -> Option<Key> {
        let (conn, _) = self.packed.get_mut(key)?.upstream;
        if rests(conn) {
            self.unpark_pooled(core, unmarked(conn));
        }
        let rest = self.packed.0.remove(unmarked(key).index)?;
        let mut stream = rest.stream.into_stream(rest.endpoint.as_ref());
        stream.client = client;
        stream.upstream = Some(rest.upstream);
        let key = self.streams.0.insert(stream);
        self.name_upstream_stream(rest.upstream, key);
        self.schedule_stream(key);
        Some(key)
    }

    /// The stream of a connection that rests is to have something: its client wakes, and with it the stream.
    pub(super) fn roused<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        conn: Key,
        id: StreamId,
        key: Key,
    ) -> Option<Key> {
        let client = self.packed.get_mut(key)?.client;
        self.unpark_mux(core, client);
        let found = self.conn(conn)?.streams()?.get(id);
        found.filter(|key| !rests(*key))
    }

    /// Wakes whoever has a resting stream on an upstream connection.
    pub(super) fn rouse_all<R: Reactor>(&mut self, core: &mut Core<R>, conn: Key) {
        let streams = self.conn(conn).and_then(Conn::streams);
        let resting = streams.map(|streams| {
            let keys = streams.entries().iter().map(|(_, key)| *key);
            keys.filter(|key| rests(*key)).collect::<Vec<_>>()
        });
        for key in resting.unwrap_or_default() {
            if let Some(rest) = self.packed.get_mut(key) {
                let client = rest.client;
                self.unpark_mux(core, client);
            }
        }
    }

    /// All streams of an upstream connection rest.
    pub(super) fn all_rest(conn: &Conn) -> bool {
        conn.streams()
            .is_some_and(|streams| streams.entries().iter().all(|(_, key)| rests(*key)))
    }

    /// An upstream connection with resting streams was parked in a slot.
    pub(super) fn upstream_rests(&mut self, streams: &[(StreamId, Key)], slot: Key) {
        for (id, key) in streams {
            if let Some(rest) = self.packed.get_mut(*key) {
                rest.upstream = (marked(slot), *id);
            }
        }
    }

    /// It is resident again.
    pub(super) fn upstream_wakes(&mut self, streams: &[(StreamId, Key)], conn: Key) {
        for (id, key) in streams {
            if let Some(rest) = self.packed.get_mut(*key) {
                rest.upstream = (conn, *id);
            }
        }
    }
}
