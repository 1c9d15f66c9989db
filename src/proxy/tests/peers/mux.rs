//! Scripted peers of a multiplexed protocol: many streams at a time, resets, heartbeats. The test
//! protocol has one-way requests and requests that the upstream opens besides; HTTP/2 has not.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use moorgate_codecs::testmux::Role;
use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Out, ResetReason, StreamId, Why};

use super::message::{belong, content};
use super::script::{Answer, Script};
pub(in crate::proxy::tests) use super::speech::{Factory, Speech};
use super::{Actor, Listener, Peer, World};
use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;

/// An event with its bytes.
pub(super) enum Heard {
    Head(StreamId, Box<Head>, bool),
    Data(StreamId, Vec<u8>, bool),
    Reset(StreamId),
}

/// A connection of the protocol, seen from outside the gateway.
pub(super) struct Link {
    pub(super) peer: Option<Peer>,
    pub(super) codec: Box<dyn Codec>,
    http2: bool,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Link {
    pub(super) fn new(peer: Option<Peer>, role: Role, speech: impl Into<Speech>) -> Self {
        let speech = speech.into();
        Self {
            peer,
            codec: Factory::shared(role, speech).make(),
            http2: speech.http2,
            input: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Lets the codec write; its payload is `payload`.
    pub(super) fn say<T>(
        &mut self,
        payload: &[u8],
        write: impl FnOnce(&mut dyn Codec, &mut Out) -> T,
    ) -> T {
        let mut out = Out::default();
        let said = write(&mut *self.codec, &mut out);
        let mut at = 0;
        for part in &out.payloads {
            self.out.extend_from_slice(&out.bytes[at..part.at]);
            self.out.extend_from_slice(&payload[part.start..part.end]);
            at = part.at;
        }
        self.out.extend_from_slice(&out.bytes[at..]);
        said
    }

    /// Sends what the window takes of `bytes`; says how much.
    fn data(&mut self, id: StreamId, bytes: &[u8], end: bool) -> usize {
        let sent = self.say(bytes, |codec, out| {
            codec.send_data(id, bytes.len(), end, out)
        });
        sent.unwrap_or(bytes.len())
    }

    pub(super) fn step(
        &mut self,
        world: &World,
        random: &mut Random,
        heard: &mut Vec<Heard>,
    ) -> Result<bool, String> {
        let now = world.now_us() / 1000;
        let mut moved = false;
        if self.codec.next_deadline().is_some_and(|due| due <= now) {
            let alive = self.say(&[], |codec, out| codec.on_deadline(now, out));
            if !alive {
                self.peer = None;
                return Ok(true);
            }
        }
        let Some(peer) = &self.peer else {
            return Ok(false);
        };
        if !self.out.is_empty() {
            let most = self.out.len().min(1 + random.below(8192) as usize);
            match peer.write(&self.out[..most]) {
                Ok(count) => {
                    self.out.drain(..count);
                    if self.out.is_empty() {
                        self.codec.written();
                    }
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.peer = None;
                    return Ok(true);
                }
            }
        }
        let mut buffer = vec![0; 1 + random.below(8192) as usize];
        match peer.read(&mut buffer) {
            Ok(0) => {
                self.peer = None;
                return Ok(true);
            }
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
            Err(_) => {
                self.peer = None;
                return Ok(true);
            }
        }
        let mut events = Events::default();
        let input = std::mem::take(&mut self.input);
        let done = self.say(&[], |codec, out| {
            codec.decode(now, &input, &mut events, out)
        });
        if let Why::Closed(Some(error)) = done.why {
            return Err(format!("the gateway broke the test protocol: {error:?}"));
        }
        for event in events.list.drain(..) {
            match event {
                Event::Head { stream, head, end } => heard.push(Heard::Head(stream, head, end)),
                Event::Data { stream, range, end } => {
                    let bytes = input[range].to_vec();
                    let count = bytes.len();
                    self.say(&[], |codec, out| codec.release(stream, count, out));
                    heard.push(Heard::Data(stream, bytes, end));
                }
                Event::Reset { stream, .. } => heard.push(Heard::Reset(stream)),
                Event::Trailers { .. }
                | Event::Writable { .. }
                | Event::GoAway { .. }
                | Event::Settled => {}
            }
        }
        self.input = input[done.bytes..].to_vec();
        Ok(true)
    }
}

/// One stream at either end: what is still to be sent, and what came.
struct Open {
    script: Script,
    sends: Vec<u8>,
    sent: usize,
    ended: bool,
    got: Vec<u8>,
    judged: usize,
    /// Status of the answer, at the asking end.
    status: u16,
    own: bool,
    /// At the answering end: the answer began.
    answered: bool,
    asked_whole: bool,
    until_us: u64,
}

impl Open {
    fn new(script: Script, sends: Vec<u8>) -> Self {
        Self {
            script,
            sends,
            sent: 0,
            ended: false,
            got: Vec::new(),
            judged: 0,
            status: 0,
            own: false,
            answered: false,
            asked_whole: false,
            until_us: 0,
        }
    }

    /// Sends on; the message ends with the last byte.
    fn push(&mut self, link: &mut Link, id: StreamId) -> bool {
        if self.ended {
            return false;
        }
        let rest = &self.sends[self.sent..];
        let count = link.data(id, rest, true);
        self.sent += count;
        self.ended = self.sent == self.sends.len();
        count > 0 || self.ended
    }
}

fn request(script: &Script, one_way: bool) -> Head {
    let mut head = plain_request(&script.path());
    head.one_way = one_way;
    head
}

pub(super) fn plain_request(path: &str) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Request;
    head.set_method(b"POST");
    head.set_scheme(b"http");
    head.set_authority(b"sim");
    head.set_path(path.as_bytes());
    head
}

fn response(script: &Script) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = if script.answer == Answer::Error {
        503
    } else {
        200
    };
    head.push(b"x-id", script.id.to_string().as_bytes());
    head
}

/// Answers a request that the other side opened.
fn answer(link: &mut Link, id: StreamId, open: &mut Open) {
    let head = response(&open.script);
    open.answered = true;
    open.sends = content(!open.script.id, 0, open.script.gets);
    let _ = link.say(&[], |codec, out| codec.send_head(id, &head, false, out));
}

/// A client.
pub(in crate::proxy::tests) struct MuxClient {
    addr: Addr,
    link: Link,
    scripts: Vec<Script>,
    open: BTreeMap<StreamId, Open>,
    /// Requests that the upstream opened.
    served: BTreeMap<StreamId, Open>,
    connected: bool,
    ended: bool,
    spoiled: bool,
    strict: bool,
    leaves: bool,
    until_us: u64,
}

impl MuxClient {
    pub(in crate::proxy::tests) fn new(
        addr: Addr,
        random: &mut Random,
        first_id: u64,
        most: usize,
        (strict, speech): (bool, Speech),
    ) -> Self {
        let odd = if random.chance(500) { 0 } else { 300 };
        let scripts = (first_id..first_id + 1 + random.below(20)).map(|id| {
            let mut script = Script::draw(random, id, most, odd);
            if script.answer == Answer::Upgrade {
                script.answer = Answer::Length;
            }
            script
        });
        let scripts = scripts.collect();
        Self {
            addr,
            link: Link::new(None, Role::Client, speech),
            scripts,
            open: BTreeMap::new(),
            served: BTreeMap::new(),
            connected: false,
            ended: false,
            spoiled: false,
            strict,
            leaves: random.chance(150),
            until_us: random.below(2_000_000),
        }
    }

    fn ask(&mut self, random: &mut Random) -> bool {
        if self.open.len() >= 8 || !random.chance(200) {
            return false;
        }
        let Some(script) = self.scripts.pop() else {
            return false;
        };
        let Some(id) = self.link.codec.open() else {
            self.scripts.push(script);
            return false;
        };
        let one_way = random.chance(100) && !self.link.http2;
        let head = request(&script, one_way);
        let _ = self
            .link
            .say(&[], |codec, out| codec.send_head(id, &head, false, out));
        let mut open = Open::new(script, content(script.id, 0, script.sends));
        open.own = one_way;
        self.open.insert(id, open);
        true
    }

    fn hear(&mut self, heard: Heard) -> Result<(), String> {
        match heard {
            Heard::Head(id, head, end) if head.kind == HeadKind::Request => {
                let path = String::from_utf8_lossy(head.path()).into_owned();
                let script = Script::parse(&path).ok_or_else(|| format!("a request: {path}"))?;
                let mut open = Open::new(script, Vec::new());
                open.asked_whole = end;
                self.served.insert(id, open);
            }
            Heard::Head(id, head, end) => {
                if let Some(open) = self.open.get_mut(&id)
                    && head.status >= 200
                {
                    open.status = head.status;
                    let answers = head.get(b"x-id").map(<[u8]>::to_vec);
                    open.own = answers.is_none();
                    let expected = open.script.id.to_string();
                    if answers.is_some_and(|id| id != expected.as_bytes()) {
                        return Err(format!("another answer for {:?}", open.script));
                    }
                    if open.own && self.strict && open.script.is_benign() {
                        return Err(format!("{} for {:?}", open.status, open.script));
                    }
                    if end {
                        self.whole(id)?;
                    }
                }
            }
            Heard::Data(id, bytes, end) => {
                if let Some(open) = self.served.get_mut(&id) {
                    open.got.extend(bytes);
                    open.asked_whole |= end;
                    if end && open.got != content(open.script.id, 0, open.script.sends) {
                        return Err(format!("another body of reverse {:?}", open.script));
                    }
                } else if let Some(open) = self.open.get_mut(&id) {
                    open.got.extend(bytes);
                    if end {
                        self.whole(id)?;
                    }
                }
            }
            Heard::Reset(id) => {
                self.served.remove(&id);
                if let Some(open) = self.open.remove(&id)
                    && self.strict
                    && !self.spoiled
                    && open.script.is_benign()
                {
                    return Err(format!("reset: {:?}", open.script));
                }
            }
        }
        Ok(())
    }

    fn whole(&mut self, id: StreamId) -> Result<(), String> {
        let Some(open) = self.open.remove(&id) else {
            return Ok(());
        };
        if !open.own && open.script.never_completes() {
            return Err(format!("a cut answer arrived whole: {:?}", open.script));
        }
        if !open.own && open.got != content(!open.script.id, 0, open.script.gets) {
            let got = open.got.len();
            return Err(format!("another body of {got} bytes for {:?}", open.script));
        }
        Ok(())
    }
}

impl Actor for MuxClient {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        if self.ended || world.now_us() < self.until_us {
            return Ok(false);
        }
        if !self.connected {
            self.connected = true;
            self.link.peer = world.connect(&self.addr);
            return Ok(true);
        }
        self.strict &= !world.lenient();
        let mut heard = Vec::new();
        let mut moved = self.ask(random);
        moved |= self.link.step(world, random, &mut heard)?;
        for heard in heard {
            self.hear(heard)?;
        }
        for (id, open) in &mut self.open {
            moved |= open.push(&mut self.link, *id);
        }
        self.open
            .retain(|_, open| !(open.own && open.status == 0 && open.ended));
        for (id, open) in &mut self.served {
            if open.asked_whole && !open.answered {
                answer(&mut self.link, *id, open);
            }
            if open.answered {
                moved |= open.push(&mut self.link, *id);
            }
        }
        self.served.retain(|_, open| !open.ended);
        if random.chance(5)
            && let Some(id) = self.open.keys().next().copied()
        {
            self.open.remove(&id);
            self.link
                .say(&[], |codec, out| codec.reset(id, ResetReason::Cancel, out));
            moved = true;
        }
        let all = self.open.is_empty() && self.scripts.is_empty() && self.link.out.is_empty();
        if self.link.peer.is_none() {
            self.ended = true;
            if self.strict && !all {
                return Err(format!("closed: {}", self.describe()));
            }
        } else if all && self.served.is_empty() || self.leaves && random.chance(5) {
            self.ended = true;
            self.link.peer = None;
            moved = true;
        }
        Ok(moved)
    }

    fn next_us(&self, now_us: u64) -> Option<u64> {
        if self.ended {
            return None;
        }
        let heartbeat = self.link.codec.next_deadline().map(|due| due * 1000);
        let later = [Some(self.until_us), heartbeat].into_iter().flatten();
        later.filter(|at| *at > now_us).min()
    }

    fn is_done(&self) -> bool {
        self.ended
    }

    fn describe(&self) -> String {
        let open: Vec<_> = self
            .open
            .iter()
            .map(|(id, open)| (id, open.script, open.sent, open.status, open.got.len()))
            .collect();
        format!("mux client: {open:?}, serving {}", self.served.len())
    }
}

/// An upstream.
pub(in crate::proxy::tests) struct MuxServer {
    listener: Listener,
    speech: Speech,
    conns: Vec<ServerConn>,
    next_reverse: u64,
    /// It opens requests of its own.
    asks: bool,
}

struct ServerConn {
    link: Link,
    open: BTreeMap<StreamId, Open>,
    /// Requests of its own.
    asked: BTreeMap<StreamId, Open>,
}

impl MuxServer {
    pub(in crate::proxy::tests) fn new(listener: Listener, speech: impl Into<Speech>) -> Self {
        Self {
            listener,
            speech: speech.into(),
            conns: Vec::new(),
            next_reverse: 1_000_000,
            asks: true,
        }
    }

    /// One that only answers.
    pub(in crate::proxy::tests) fn silent(listener: Listener, speech: impl Into<Speech>) -> Self {
        Self {
            asks: false,
            ..Self::new(listener, speech)
        }
    }
}

impl ServerConn {
    fn hear(&mut self, heard: Heard, now_us: u64) -> Result<(), String> {
        match heard {
            Heard::Head(id, head, end) if head.kind == HeadKind::Request => {
                let path = String::from_utf8_lossy(head.path()).into_owned();
                let script = Script::parse(&path).ok_or_else(|| format!("a request: {path}"))?;
                let mut open = Open::new(script, Vec::new());
                open.asked_whole = end;
                open.own = head.one_way;
                open.until_us = now_us + script.pause_ms * 1000;
                if !(end && head.one_way) {
                    self.open.insert(id, open);
                }
            }
            Heard::Head(id, head, end) => {
                if let Some(open) = self.asked.get_mut(&id) {
                    open.status = head.status;
                    if end {
                        self.asked.remove(&id);
                    }
                }
            }
            Heard::Data(id, bytes, end) => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.got.extend(bytes);
                    let (script, got) = (open.script, open.got.len());
                    if !belong(script.id, &open.got, &mut open.judged) || end && got != script.sends
                    {
                        return Err(format!("upstream got {got} bytes for {script:?}"));
                    }
                    open.asked_whole |= end;
                    if end && open.own {
                        self.open.remove(&id);
                    }
                } else if let Some(open) = self.asked.get_mut(&id) {
                    open.got.extend(bytes);
                    let script = open.script;
                    if open.status == 200 && !belong(!script.id, &open.got, &mut open.judged) {
                        return Err(format!("another answer to reverse {script:?}"));
                    }
                    if end {
                        self.asked.remove(&id);
                    }
                }
            }
            Heard::Reset(id) => {
                self.open.remove(&id);
                self.asked.remove(&id);
            }
        }
        Ok(())
    }

    /// Does what the script of a stream says next. `Some(false)`: it is over.
    fn act(link: &mut Link, id: StreamId, open: &mut Open, now_us: u64) -> Option<bool> {
        let early = matches!(open.script.answer, Answer::Early | Answer::EarlyClose);
        if open.own || now_us < open.until_us || !(open.asked_whole || early) {
            return None;
        }
        if matches!(open.script.answer, Answer::Reset | Answer::Silent) {
            link.say(&[], |codec, out| codec.reset(id, ResetReason::Cancel, out));
            return Some(false);
        }
        if !open.answered {
            answer(link, id, open);
        }
        if open.script.never_completes() {
            let half = open.sends.len() / 2;
            link.data(id, &open.sends[..half], false);
            link.say(&[], |codec, out| codec.reset(id, ResetReason::Cancel, out));
            return Some(false);
        }
        let moved = open.push(link, id);
        if open.ended && open.asked_whole {
            return Some(false);
        }
        moved.then_some(true)
    }
}

impl Actor for MuxServer {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        let mut moved = false;
        let now = world.now_us();
        while let Some(peer) = self.listener.accept() {
            moved = true;
            self.conns.push(ServerConn {
                link: Link::new(Some(peer), Role::Server, self.speech),
                open: BTreeMap::new(),
                asked: BTreeMap::new(),
            });
        }
        for conn in &mut self.conns {
            let mut heard = Vec::new();
            moved |= conn.link.step(world, random, &mut heard)?;
            for heard in heard {
                conn.hear(heard, now)?;
            }
            let link = &mut conn.link;
            conn.open.retain(|id, open| {
                let acted = ServerConn::act(link, *id, open, now);
                moved |= acted.is_some();
                acted != Some(false)
            });
            if self.asks
                && !conn.open.is_empty()
                && random.chance(5)
                && let Some(id) = conn.link.codec.open()
            {
                self.next_reverse += 1;
                let script = Script::draw(random, self.next_reverse, 2000, 0);
                let head = request(&script, false);
                let _ = conn
                    .link
                    .say(&[], |codec, out| codec.send_head(id, &head, false, out));
                let open = Open::new(script, content(script.id, 0, script.sends));
                conn.asked.insert(id, open);
            }
            for (id, open) in &mut conn.asked {
                moved |= open.push(&mut conn.link, *id);
            }
        }
        self.conns.retain(|conn| conn.link.peer.is_some());
        Ok(moved)
    }

    fn next_us(&self, now_us: u64) -> Option<u64> {
        let streams = self.conns.iter().flat_map(|conn| conn.open.values());
        let pauses = streams.map(|open| open.until_us);
        let beats = self
            .conns
            .iter()
            .filter_map(|conn| conn.link.codec.next_deadline());
        let later = pauses.chain(beats.map(|due| due * 1000));
        later.filter(|at| *at > now_us).min()
    }

    fn is_done(&self) -> bool {
        true
    }
}
