// Calls as a browser makes them: `node grpc_web_client.js URL binary|text fetch|http2 UPSTREAM` prints "ok".
// `fetch` is the browser's own interface, over HTTP/1; `http2` has the same exchange over HTTP/2.
"use strict";
const assert = require("assert");
const http2 = require("http2");
const [base, mode, over, upstream] = process.argv.slice(2);
const text = mode === "text";
const type = text ? "application/grpc-web-text+proto" : "application/grpc-web+proto";

function frame(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

// The body's bytes as they come, out of whole groups of Base64, each with its own padding.
function* decoded(piece, rest) {
  if (!text) {
    yield piece;
    return;
  }
  rest.text += piece.toString("latin1");
  const whole = rest.text.length - (rest.text.length % 4);
  for (let at = 0; at < whole; at += 4) yield Buffer.from(rest.text.slice(at, at + 4), "base64");
  rest.text = rest.text.slice(whole);
}

class Answer {
  constructor() {
    this.bytes = Buffer.alloc(0);
    this.rest = { text: "" };
    this.messages = [];
    this.trailers = null;
  }

  take(piece) {
    this.bytes = Buffer.concat([this.bytes, ...decoded(Buffer.from(piece), this.rest)]);
    while (this.bytes.length >= 5) {
      const end = 5 + this.bytes.readUInt32BE(1);
      if (this.bytes.length < end) return;
      assert.strictEqual(this.trailers, null, "something behind the trailers");
      const content = this.bytes.subarray(5, end);
      if (this.bytes[0] === 0x80) {
        const lines = content.toString().trim().split("\r\n");
        this.trailers = Object.fromEntries(lines.map((line) => line.split(/:\s*/, 2)));
      } else this.messages.push(content);
      this.bytes = this.bytes.subarray(end);
    }
  }

  // What ends without messages has its status in the head.
  finish(head) {
    assert.strictEqual(this.bytes.length, 0, "an unfinished frame");
    assert.strictEqual(this.rest.text, "", "unfinished Base64");
    this.status = Number((this.trailers || head)["grpc-status"]);
    this.message = decodeURIComponent((this.trailers || head)["grpc-message"] || "");
    this.head = head;
    // What never reached a server says so in both ways.
    assert.strictEqual(head[":status"], this.status === 14 ? 503 : 200);
    return this;
  }
}

let session = null;

async function call(path, messages, fields, each) {
  const body = Buffer.concat(messages.map(frame));
  const payload = text ? body.toString("base64") : body;
  const headers = { "content-type": type, accept: type, "x-grpc-web": "1", "x-up": upstream, ...fields };
  const answer = new Answer();
  const take = (piece) => {
    const before = answer.messages.length;
    answer.take(piece);
    if (each && answer.messages.length > before) each(answer);
  };
  if (over === "fetch") {
    const response = await fetch(base + path, { method: "POST", headers, body: payload });
    for await (const piece of response.body) take(piece);
    return answer.finish({ ":status": response.status, ...Object.fromEntries(response.headers) });
  }
  session = session || http2.connect(base);
  const stream = session.request({ ":method": "POST", ":path": path, ...headers });
  stream.end(payload);
  return new Promise((resolve, reject) => {
    let head;
    stream.on("response", (got) => { head = got; });
    stream.on("data", take);
    stream.on("error", reject);
    stream.on("end", () => {
      resolve(answer.finish(head));
    });
  });
}

async function main() {
  for (const size of [0, 1, 2, 3, 300_000]) {
    const said = Buffer.alloc(size, "ab");
    const answer = await call("/test.Echo/Unary", [said], { "x-echo": "value" });
    assert.strictEqual(answer.status, 0, answer.message);
    assert.deepStrictEqual(answer.messages.map((message) => message.equals(said)), [true]);
    assert.strictEqual(answer.head["content-type"], type);
    assert.strictEqual(answer.head["x-echoed"], "value");
    assert.strictEqual(answer.trailers["x-trailer"], "value");
  }
  const many = await call("/test.Echo/Spread", [Buffer.from("50 1000")], {});
  assert.deepStrictEqual(many.messages.map((message) => message.length), Array(50).fill(1000));
  assert.strictEqual(many.status, 0);
  const after = await call("/test.Echo/Spread", [Buffer.from("2 7")], { "x-then-fail": "1" });
  assert.deepStrictEqual([after.messages.length, after.status], [2, 15]);
  const failed = await call("/test.Echo/Unary", [Buffer.from("x")], { "x-fail": "7" });
  assert.deepStrictEqual([failed.status, failed.message], [7, "as asked: 100% caf\u00e9"]);
  const unknown = await call("/test.Echo/Nothing", [Buffer.from("x")], {});
  assert.strictEqual(unknown.status, 12);
  const nobody = await call("/test.Echo/Unary", [Buffer.from("x")], { "x-up": "dead" });
  assert.strictEqual(nobody.status, 14);
  // A watcher hears at once what is said while it waits; somebody has to say it.
  let heard = 0;
  const watch = call("/test.Echo/Watch", [Buffer.from("x")], { "grpc-timeout": "2S" }, (answer) => {
    heard = answer.messages.length;
    if (heard === 1) call("/test.Control/Wake", [Buffer.from("x")], {});
  }).catch((error) => error);
  const end = await watch;
  assert.ok(heard >= 2, `${heard} messages, ${end}`);
  if (session) session.close();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
