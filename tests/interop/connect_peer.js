// HTTP/2 sessions by CONNECT, with Node's http2:
//     node connect_peer.js serve PORT [plain]    echoes; `plain` takes no extended CONNECT
//     node connect_peer.js talk URL              a WebSocket by extended CONNECT, with frames
//     node connect_peer.js pipe URL BYTES [connect]   so many bytes there and back, half-closing after them
//     node connect_peer.js status URL            how an extended CONNECT is answered
//     node connect_peer.js reset URL             gives a session up; says so when the gateway's side is gone
//     node connect_peer.js wait URL              says how a silent session ends
// A client prints what came of it and leaves.
"use strict";
const http2 = require("http2");
const crypto = require("crypto");
const [what, where, bytes, how] = process.argv.slice(2);

function serve(port, plain) {
  const server = http2.createServer({ settings: { enableConnectProtocol: !plain } });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    const path = headers[":path"] || "/";
    if (headers[":method"] !== "CONNECT") {
      stream.respond({ ":status": 200 });
      stream.end("no session");
    } else if (headers[":protocol"] !== "websocket") {
      stream.respond({ ":status": 501 }, { endStream: true });
    } else if (path.startsWith("/refused")) {
      stream.respond({ ":status": 403 });
      stream.end("not for you");
    } else if (path.startsWith("/reset")) {
      stream.respond({ ":status": 200 });
      stream.once("data", () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
    } else if (path.startsWith("/first")) {
      // The server has said all before the client has: what comes after it is counted.
      stream.respond({ ":status": 200 });
      let got = 0;
      stream.on("data", (piece) => { got += piece.length; });
      stream.on("end", () => console.log(`counted ${got}`));
      stream.end("bye");
    } else {
      stream.respond({ ":status": 200 });
      stream.pipe(stream);
    }
  });
  server.listen(Number(port), "127.0.0.1");
}

function session(then) {
  const url = new URL(where);
  const client = http2.connect(url.origin);
  client.on("error", (error) => { console.log(`connection ${error.code}`); });
  const headers = { ":method": "CONNECT", ":authority": url.host };
  if (how === "connect" || url.pathname === "/") {
    client.on("connect", () => then(client, client.request(headers)));
    return;
  }
  client.once("remoteSettings", (settings) => {
    if (!settings.enableConnectProtocol) {
      console.log("not taken");
      client.close();
      return;
    }
    then(client, client.request({
      ...headers, ":protocol": "websocket", ":scheme": "http", ":path": url.pathname,
      "sec-websocket-version": "13",
    }));
  });
}

// A frame as a client sends it (RFC 6455 section 5.2).
function frame(opcode, payload) {
  const head = payload.length < 126
    ? Buffer.from([0x80 | opcode, 0x80 | payload.length])
    : Buffer.from([0x80 | opcode, 0x80 | 126, payload.length >> 8, payload.length & 255]);
  const mask = crypto.randomBytes(4);
  const masked = Buffer.from(payload.map((byte, at) => byte ^ mask[at % 4]));
  return Buffer.concat([head, mask, masked]);
}

// The first frame of what a server said, if it is all there.
function unframe(got) {
  if (got.length < 2) return null;
  let [length, at] = [got[1] & 127, 2];
  if (length === 126) [length, at] = [got.readUInt16BE(2), 4];
  if (got.length < at + length) return null;
  return { opcode: got[0] & 15, payload: got.subarray(at, at + length), rest: got.subarray(at + length) };
}

function talk(client, stream) {
  const messages = ["one", "", "x".repeat(5000), "last"];
  let got = Buffer.alloc(0);
  stream.on("response", (headers) => {
    if (headers[":status"] !== 200) throw new Error(`status ${headers[":status"]}`);
    stream.write(frame(1, Buffer.from(messages[0])));
  });
  stream.on("data", (piece) => {
    got = Buffer.concat([got, piece]);
    for (let message = unframe(got); message; message = unframe(got)) {
      got = message.rest;
      if (message.opcode === 9) {
        stream.write(frame(10, message.payload));
      } else if (message.opcode === 8) {
        stream.end();
      } else {
        if (message.payload.toString() !== messages.shift()) throw new Error("another message");
        const next = messages[0];
        stream.write(next === undefined ? frame(8, Buffer.from([3, 232])) : frame(1, Buffer.from(next)));
      }
    }
  });
  stream.on("close", () => { console.log(`messages left ${messages.length}, code ${stream.rstCode}`); client.close(); });
}

function pipe(client, stream) {
  const body = crypto.randomBytes(Number(bytes));
  const got = [];
  stream.on("response", () => stream.end(body));
  stream.on("data", (piece) => got.push(piece));
  stream.on("end", () => {
    const all = Buffer.concat(got);
    console.log(all.equals(body) ? `whole ${all.length}` : `got ${all.toString("latin1", 0, 40)}`);
    client.close();
  });
  stream.on("error", (error) => console.log(error.code));
}

function status(client, stream) {
  let said = "";
  stream.on("response", (headers) => { said = String(headers[":status"]); });
  stream.on("data", (piece) => { said += ` ${piece}`; });
  stream.on("error", () => {});
  stream.on("close", () => { console.log(said || `reset ${stream.rstCode}`); client.close(); });
}

function reset(client, stream) {
  stream.on("response", () => stream.write("x"));
  stream.on("error", () => {});
  stream.once("data", () => stream.close(http2.constants.NGHTTP2_CANCEL));
  stream.on("close", () => { console.log(`code ${stream.rstCode}`); client.close(); });
}

function wait(client, stream) {
  stream.on("response", () => stream.write("x"));
  stream.on("data", () => {});
  stream.on("error", () => {});
  stream.on("close", () => { console.log(`code ${stream.rstCode}`); client.close(); });
}

if (what === "serve") serve(where, bytes === "plain");
else session({ talk, pipe, status, reset, wait }[what]);
