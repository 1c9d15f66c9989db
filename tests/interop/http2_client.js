// Many streams on one HTTP/2 connection: `node http2_client.js URL COUNT BYTES` posts BYTES to URL in
// COUNT streams at a time, checks that each comes back whole, and says how many did.
"use strict";
const http2 = require("http2");
const [url, count, bytes] = [new URL(process.argv[2]), Number(process.argv[3]), Number(process.argv[4])];
const session = http2.connect(url.origin);
let open = count;
let good = 0;
for (let at = 0; at < count; at += 1) {
  const body = Buffer.alloc(bytes, String(at));
  const stream = session.request({ ":method": "POST", ":path": url.pathname });
  const got = [];
  stream.on("data", (piece) => got.push(piece));
  stream.on("close", () => {
    if (Buffer.concat(got).equals(body)) good += 1;
    open -= 1;
    if (open === 0) {
      console.log(good);
      session.close();
    }
  });
  stream.on("error", () => {});
  stream.end(body);
}
