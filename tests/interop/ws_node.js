// A WebSocket server and client of npm's `ws`, the peer that most services have: `node ws_node.js serve PORT
// [CERT KEY]` echoes; `node ws_node.js talk URL plain|deflate` prints "ok".
"use strict";
const assert = require("assert");
const fs = require("fs");
const http = require("http");
const https = require("https");
const { once } = require("events");
const WebSocket = require("ws");

function serve(port, cert, key) {
  const server = cert
    ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
    : http.createServer();
  const sockets = new WebSocket.Server({ server, perMessageDeflate: { threshold: 0 }, maxPayload: 1 << 24 });
  sockets.on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("message", (data, binary) => {
      const text = binary ? "" : data.toString();
      if (text === "close") socket.close(4001, "as you wish");
      else if (text === "terminate") socket.terminate();
      else if (text === "ping") socket.ping("from the server");
      else if (text === "fragments") {
        socket.send("a", { fin: false });
        socket.send("b", { fin: false });
        socket.ping("between");
        socket.send("\u20ac", { fin: true });
      } else socket.send(data, { binary });
    });
    socket.on("pong", (data) => socket.send(`pong ${data}`));
  });
  server.listen(port, "127.0.0.1");
}

// What came and nobody has asked for yet: several frames may come at once.
class Heard {
  constructor(socket, event) {
    this.came = [];
    this.wake = null;
    socket.on(event, (data, binary) => {
      this.came.push(binary ? data : data.toString());
      if (this.wake) this.wake();
    });
  }

  async next() {
    while (this.came.length === 0) await new Promise((resolve) => { this.wake = resolve; });
    return this.came.shift();
  }
}

async function open(url, deflate) {
  const socket = new WebSocket(url, { perMessageDeflate: deflate && { threshold: 0 }, maxPayload: 1 << 24 });
  socket.heard = Object.fromEntries(["message", "ping", "pong"].map((event) => [event, new Heard(socket, event)]));
  await once(socket, "open");
  return socket;
}

const heard = (socket) => socket.heard.message.next();

async function talk(url, deflate) {
  const socket = await open(url, deflate);
  assert.strictEqual(socket.extensions.includes("permessage-deflate"), deflate);
  for (const message of ["text", "caf\u00e9 \u20ac", "", Buffer.alloc(0), Buffer.alloc(1 << 20, "xyz"), "x".repeat(70_000)]) {
    socket.send(message);
    assert.ok(Buffer.from(await heard(socket)).equals(Buffer.from(message)));
  }
  // Ours in pieces, with a ping among them.
  socket.send("in ", { fin: false });
  socket.ping("are you there");
  socket.send("several ", { fin: false });
  socket.send("frames", { fin: true });
  assert.strictEqual(await socket.heard.pong.next(), "are you there");
  assert.strictEqual(await heard(socket), "in several frames");
  // Theirs.
  socket.send("fragments");
  assert.strictEqual(await heard(socket), "ab\u20ac");
  assert.strictEqual(await socket.heard.ping.next(), "between");
  assert.strictEqual(await heard(socket), "pong between");
  socket.send("ping");
  assert.strictEqual(await heard(socket), "pong from the server");
  // Our code and theirs.
  socket.close(3999, "enough");
  const [code, reason] = await once(socket, "close");
  assert.deepStrictEqual([code, reason.toString()], [3999, "enough"]);
  const told = await open(url, deflate);
  told.send("close");
  const [theirs, why] = await once(told, "close");
  assert.deepStrictEqual([theirs, why.toString()], [4001, "as you wish"]);
  // A server that goes without a word.
  const cut = await open(url, deflate);
  cut.send("terminate");
  assert.strictEqual((await once(cut, "close"))[0], 1006);
  // Half-close: what was sent before the end is answered, and then the end comes back.
  const half = await open(url, deflate);
  half.send("last words");
  assert.strictEqual(await heard(half), "last words");
  half._socket.end();
  assert.strictEqual((await once(half, "close"))[0], 1006);
  // A hundred at once, each with its own messages.
  await Promise.all(Array.from({ length: 100 }, async (_, number) => {
    const one = await open(url, deflate);
    for (let turn = 0; turn < 5; turn += 1) {
      one.send(`${number}.${turn}`);
      assert.strictEqual(await heard(one), `${number}.${turn}`);
    }
    one.close();
    await once(one, "close");
  }));
  console.log("ok");
}

const [what, ...rest] = process.argv.slice(2);
if (what === "serve") serve(...rest);
else {
  talk(rest[0], rest[1] === "deflate").catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
