//! HTTP/1 messages as the scripted peers read them: strict, small, and written apart from the codec
//! that is under test.

/// Bytes that belong to a number: the same on both sides, different for each number.
pub(in crate::proxy::tests) fn content(id: u64, from: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 16);
    for number in from / 8..(from + len).div_ceil(8) {
        let block = (id ^ ((number as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&(block ^ (block >> 29)).to_le_bytes());
    }
    bytes.drain(..from % 8);
    bytes.truncate(len);
    bytes
}

/// The bytes after the first `judged` ones belong to the number; they are judged then.
pub(in crate::proxy::tests) fn belong(id: u64, bytes: &[u8], judged: &mut usize) -> bool {
    let from = std::mem::replace(judged, bytes.len());
    bytes[from..] == content(id, from, bytes.len() - from)
}

/// A message as far as it has come.
#[derive(Debug, Default)]
pub(in crate::proxy::tests) struct Message {
    /// Request or status line.
    pub(in crate::proxy::tests) first: String,
    pub(in crate::proxy::tests) fields: Vec<(String, String)>,
    pub(in crate::proxy::tests) body: Vec<u8>,
    /// Bytes of the body that were looked at.
    pub(in crate::proxy::tests) judged: usize,
    pub(in crate::proxy::tests) done: bool,
}

impl Message {
    pub(in crate::proxy::tests) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(in crate::proxy::tests) fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1);
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    UntilClose,
}

/// Reads one message after the other.
#[derive(Debug)]
pub(in crate::proxy::tests) struct Reader {
    requests: bool,
    pub(in crate::proxy::tests) bytes: Vec<u8>,
    expect: Expect,
    /// The message that is being read.
    pub(in crate::proxy::tests) current: Option<Message>,
}

impl Reader {
    pub(in crate::proxy::tests) fn new(requests: bool) -> Self {
        Self {
            requests,
            bytes: Vec::new(),
            expect: Expect::Head,
            current: None,
        }
    }

    /// Nothing was begun.
    pub(in crate::proxy::tests) fn is_idle(&self) -> bool {
        self.current.is_none() && self.bytes.is_empty()
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8(self.bytes[..end].to_vec()).map_err(|e| e.to_string())?;
        self.bytes.drain(..end + 2);
        Ok(Some(line))
    }

    fn head(&mut self) -> Result<bool, String> {
        let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(false);
        };
        let text = String::from_utf8(self.bytes[..end].to_vec()).map_err(|e| e.to_string())?;
        self.bytes.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let mut message = Message {
            first: lines.next().unwrap_or_default().to_owned(),
            ..Message::default()
        };
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("a field: {line:?}"))?;
            let field = (name.to_ascii_lowercase(), value.trim().to_owned());
            message.fields.push(field);
        }
        let status = message.status();
        if !self.requests && !message.first.starts_with("HTTP/1.1 ") {
            return Err(format!("not a response: {:?}", message.first));
        }
        let length = message.field("content-length").map(str::parse::<usize>);
        self.expect = if message.field("transfer-encoding") == Some("chunked") {
            Expect::ChunkSize
        } else if let Some(length) = length {
            Expect::Length(length.map_err(|e| e.to_string())?)
        } else if self.requests || status < 200 || status == 204 || status == 304 {
            Expect::Length(0)
        } else {
            Expect::UntilClose
        };
        self.current = Some(message);
        Ok(true)
    }

    fn body(&mut self, most: usize) -> usize {
        let count = most.min(self.bytes.len());
        if let Some(message) = &mut self.current {
            message.body.extend(self.bytes.drain(..count));
        }
        count
    }

    /// Reads on as far as the current message goes. `eof`: no more bytes will come.
    pub(in crate::proxy::tests) fn advance(&mut self, eof: bool) -> Result<(), String> {
        loop {
            if self.current.as_ref().is_some_and(|message| message.done) {
                return Ok(());
            }
            match self.expect {
                Expect::Head => {
                    if !self.head()? {
                        return Ok(());
                    }
                }
                Expect::Length(left) => {
                    let left = left - self.body(left);
                    self.expect = Expect::Length(left);
                    if left > 0 {
                        return Ok(());
                    }
                    self.finish();
                }
                Expect::ChunkSize => {
                    let Some(line) = self.line()? else {
                        return Ok(());
                    };
                    let size = usize::from_str_radix(&line, 16)
                        .map_err(|_| format!("a chunk size: {line:?}"))?;
                    self.expect = match size {
                        0 => Expect::Trailers,
                        _ => Expect::Chunk(size),
                    };
                }
                Expect::Chunk(left) => {
                    let left = left - self.body(left);
                    self.expect = Expect::Chunk(left);
                    if left > 0 {
                        return Ok(());
                    }
                    self.expect = Expect::ChunkEnd;
                }
                Expect::ChunkEnd => match self.line()? {
                    None => return Ok(()),
                    Some(line) if line.is_empty() => self.expect = Expect::ChunkSize,
                    Some(line) => return Err(format!("after a chunk: {line:?}")),
                },
                Expect::Trailers => match self.line()? {
                    None => return Ok(()),
                    Some(line) if line.is_empty() => self.finish(),
                    Some(_) => {}
                },
                Expect::UntilClose => {
                    self.body(usize::MAX);
                    if !eof {
                        return Ok(());
                    }
                    self.finish();
                }
            }
        }
    }

    fn finish(&mut self) {
        self.expect = Expect::Head;
        if let Some(message) = &mut self.current {
            message.done = true;
        }
    }
}
