// A server as many have written one: Node's own library, nothing of ramet.
const http = require("http");
const server = http.createServer((request, response) => {
  if (request.url.endsWith("/stream")) {
    response.writeHead(200, { "content-type": "text/plain" });
    for (let line = 0; line < 10000; line++) response.write(`line ${line}\n`);
    return response.end();
  }
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    response.setHeader("x-powered-by", "node");
    response.end(Buffer.concat(pieces).toString().split("").reverse().join(""));
  });
});
// WebSocket (RFC 6455), by hand: short text frames go back as they came.
server.on("upgrade", (request, socket, head) => {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const accept = require("crypto").createHash("sha1").update(key).digest("base64");
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let unread = head;
  socket.on("data", (piece) => {
    unread = Buffer.concat([unread, piece]);
    while (unread.length >= 6 && unread.length >= 6 + (unread[1] & 127)) {
      const length = unread[1] & 127;
      const mask = unread.subarray(2, 6);
      const text = Buffer.from(unread.subarray(6, 6 + length).map((byte, at) => byte ^ mask[at % 4]));
      socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
      unread = unread.subarray(6 + length);
    }
  });
  socket.on("end", () => socket.end());
  socket.on("error", () => {});
});
server.listen(process.env.PORT);
