//! Which multiplexed protocol the peers and the gateway speak: the test protocol, or HTTP/2.

use std::sync::Arc;

use moorgate_codecs::testmux::{Mux, Role, Settings};
use moorgate_codecs::{Codec, http2};

use crate::cluster::CodecFactory;

/// What is spoken: the test protocol or HTTP/2, with windows of this size.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy::tests) struct Speech {
    pub(in crate::proxy::tests) window: u32,
    pub(in crate::proxy::tests) http2: bool,
}

impl From<u32> for Speech {
    fn from(window: u32) -> Self {
        Self {
            window,
            http2: false,
        }
    }
}

/// Makes the protocol's codecs for the gateway.
#[derive(Debug)]
pub(in crate::proxy::tests) struct Factory {
    role: Role,
    speech: Speech,
}

impl Factory {
    pub(in crate::proxy::tests) fn shared(
        role: Role,
        speech: impl Into<Speech>,
    ) -> Arc<dyn CodecFactory> {
        let speech = speech.into();
        Arc::new(Self { role, speech })
    }
}

impl CodecFactory for Factory {
    fn make(&self) -> Box<dyn Codec> {
        self.unpark(&[])
    }

    fn unpark(&self, compact: &[u8]) -> Box<dyn Codec> {
        if !self.speech.http2 {
            let settings = settings(self.speech.window);
            return Box::new(Mux::unpark(self.role, settings, compact));
        }
        let role = match self.role {
            Role::Server => http2::Role::Server,
            Role::Client => http2::Role::Client,
        };
        let settings = http2::Settings {
            max_concurrent_streams: 16,
            stream_window: self.speech.window,
            connection_window: self.speech.window,
            keepalive: Some(http2::Keepalive {
                interval: 60_000,
                jitter_percent: 15,
                timeout: 60_000,
            }),
            ..http2::Settings::default()
        };
        Box::new(http2::Connection::unpark(role, Arc::new(settings), compact))
    }
}

fn settings(window: u32) -> Settings {
    Settings {
        window,
        max_streams: 16,
        heartbeat: Some(60_000),
        ..Settings::default()
    }
}
