//! What is asked on each stream, made once.

use std::sync::Arc;

use moorgate_codecs::http2::{Connection, Role, Settings};
use moorgate_codecs::{Codec, Head, HeadKind, Out};

use super::grpc;
use crate::exchange::{Request, add_headers};
use crate::target::Target;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request and its response.
    Http,
    /// A call of gRPC with a message, which is answered by one.
    Unary,
    /// A stream of gRPC that stays open: each message is answered by one.
    Bidi,
}

/// See the module.
#[derive(Debug)]
pub struct Call {
    /// The request's head.
    pub head: Head,
    /// The request's body; of gRPC one message with its prefix.
    pub body: Vec<u8>,
    /// What a stream is for.
    pub kind: Kind,
    /// Of the codec.
    pub settings: Arc<Settings>,
}

impl Call {
    /// A request to `target`.
    ///
    /// # Errors
    /// What cannot be said in HTTP/2, in words for the command line.
    pub fn http(target: &Target, request: &Request<'_>) -> Result<Self, String> {
        let mut head = Head::new();
        head.set_method(request.method.as_bytes());
        head.set_path(target.path.as_bytes());
        add_headers(&mut head, request.headers)?;
        if !request.body.is_empty() {
            head.content_length = Some(request.body.len() as u64);
        }
        Self::checked(target, head, request.body.to_vec(), Kind::Http)
    }

    /// A call of gRPC to `target`, whose path names the method, with `message` in it.
    ///
    /// # Errors
    /// What cannot be said, in words for the command line.
    pub fn grpc(
        target: &Target,
        headers: &[String],
        message: &[u8],
        bidi: bool,
    ) -> Result<Self, String> {
        let mut head = Head::new();
        head.set_method(b"POST");
        head.set_path(match target.path.as_bytes() {
            b"/" => b"/moorgate.load.Echo/Echo",
            path => path,
        });
        head.push(b"content-type", b"application/grpc");
        head.push(b"te", b"trailers");
        add_headers(&mut head, headers)?;
        let body = grpc::framed(message).ok_or("the message is too long")?;
        let kind = if bidi { Kind::Bidi } else { Kind::Unary };
        Self::checked(target, head, body, kind)
    }

    /// Streams stay open, for one message after the other.
    #[must_use]
    pub fn keeps_streams(&self) -> bool {
        self.kind == Kind::Bidi
    }

    fn checked(target: &Target, mut head: Head, body: Vec<u8>, kind: Kind) -> Result<Self, String> {
        head.kind = HeadKind::Request;
        head.set_scheme(target.http_scheme().as_bytes());
        if head.authority().is_empty() {
            head.set_authority(target.authority.as_bytes());
        }
        let call = Self {
            head,
            body,
            kind,
            settings: Arc::new(Settings {
                max_concurrent_streams: u32::MAX / 2,
                ..Settings::default()
            }),
        };
        let mut codec = Connection::new(Role::Client, Arc::clone(&call.settings));
        let stream = codec.open().ok_or("a new connection takes no request")?;
        codec
            .send_head(stream, &call.head, true, &mut Out::default())
            .map_err(|error| format!("the request cannot be sent: {error:?}"))?;
        Ok(call)
    }
}
