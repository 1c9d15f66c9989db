// A server that tells by which version of HTTP it was asked: `node either_server.js PORT [CERT KEY]`. With a
// certificate ALPN chooses, without one the first bytes tell.
"use strict";
const fs = require("fs");
const http = require("http");
const http2 = require("http2");
const net = require("net");

const [port, cert, key] = process.argv.slice(2);
const answer = (request, response) => {
  request.resume();
  response.end(request.httpVersion);
};
let server;
if (cert) {
  const files = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
  server = http2.createSecureServer({ allowHTTP1: true, ...files }, answer);
} else {
  const inner = [http.createServer(answer), http2.createServer(answer)];
  inner.forEach((one) => one.listen(0, "127.0.0.1"));
  server = net.createServer((socket) => {
    socket.once("data", (start) => {
      const spoken = inner[start.toString("latin1").startsWith("PR") ? 1 : 0];
      const behind = net.connect(spoken.address().port, "127.0.0.1");
      behind.write(start);
      socket.pipe(behind).pipe(socket);
      socket.on("error", () => behind.destroy());
      behind.on("error", () => socket.destroy());
    });
  });
}
server.listen(Number(port), "127.0.0.1");
