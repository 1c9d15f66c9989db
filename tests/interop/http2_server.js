// An HTTP/2 server: `node http2_server.js PORT [CERT KEY]`, with TLS if there is a certificate. The path says how
// it answers.
"use strict";
const fs = require("fs");
const http2 = require("http2");

const [port, cert, key] = process.argv.slice(2);
const server = cert
  ? http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
  : http2.createServer();
let sessions = 0;
server.on("session", () => { sessions += 1; });
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  const path = headers[":path"];
  if (path.startsWith("/echo")) {
    stream.respond({ ":status": 200, "x-method": headers[":method"] });
    stream.pipe(stream);
  } else if (path.startsWith("/trailers")) {
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "42" }));
    stream.end("body");
  } else if (path.startsWith("/early")) {
    stream.additionalHeaders({ ":status": 103, link: "</a>" });
    stream.respond({ ":status": 200 });
    stream.end("early");
  } else if (path.startsWith("/big/")) {
    stream.respond({ ":status": 200 });
    stream.end(Buffer.alloc(Number(path.slice(5)), "b"));
  } else if (path.startsWith("/refuse")) {
    stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  } else if (path.startsWith("/leave")) {
    // What is open is answered, and the connection takes no more.
    stream.session.goaway(0, stream.id);
    stream.respond({ ":status": 200 });
    stream.end("left");
    stream.session.close();
  } else if (path.startsWith("/sessions")) {
    stream.respond({ ":status": 200 });
    stream.end(String(sessions));
  } else {
    stream.respond({ ":status": 200, "content-length": 5 });
    stream.end("hello");
  }
});
server.listen(Number(port), "127.0.0.1");
