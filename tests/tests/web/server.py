"""A server as many have written one: Python's own library, nothing of ramet. The last part of a path says what to do."""
import http.server
import os
import signal
import socket
import sys
import threading
import time

STARTED = time.monotonic()
SETTINGS = dict(argument.split("=", 1) for argument in sys.argv[1:])
WELL = threading.Event()
WELL.set()
GO_ON = threading.Event()
WRITTEN = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def pieces(self):
        """The request's body as it comes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left and (piece := self.rfile.read1(min(left, 65536))):
                left -= len(piece)
                yield piece

    def begin_chunks(self, content_type="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def end_chunks(self):
        self.wfile.write(b"0\r\n\r\n")

    def serve(self):
        path, _, query = self.path.partition("?")
        order = path.rsplit("/", 1)[-1]
        getattr(self, "do_" + order, self.do_describe)(query)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def do_describe(self, _):
        body = b"".join(self.pieces()).decode()
        lines = ["%s %s" % (self.command, self.path)]
        lines += sorted("%s: %s" % (name.lower(), value) for name, value in self.headers.items())
        self.answer("\n".join(lines + ["", body]).encode(), headers=[("X-Set", "by the function")])

    def do_upper(self, query):
        body = b"".join(self.pieces()).upper()
        headers = [("X-Kind", query)] if query else []
        self.answer(body, headers=headers)

    def do_next(self, query):
        self.answer(b"".join(self.pieces()), headers=[("Ramet-Next", query)])

    def do_status(self, query):
        list(self.pieces())
        if int(query) in (204, 304):
            self.send_response(int(query))
            self.end_headers()
        else:
            self.answer(b"as told", status=int(query))

    def do_pid(self, _):
        self.answer(str(os.getpid()).encode() + b" " + SETTINGS.get("name", "").encode() + b" %d" % id(WELL))

    def do_started(self, _):
        self.answer(b"%f" % STARTED)

    def do_echo(self, _):
        """Each piece goes back at once."""
        self.begin_chunks()
        for piece in self.pieces():
            self.chunk(piece)
        self.end_chunks()

    def do_events(self, query):
        self.begin_chunks("text/event-stream")
        self.chunk(b"data: first\n\n")
        GO_ON.wait(30)
        self.chunk(b"data: last\n\n")
        self.end_chunks()

    def do_goon(self, _):
        GO_ON.set()
        self.answer(b"gone on")

    def do_endless(self, _):
        global WRITTEN
        self.begin_chunks()
        try:
            while True:
                self.chunk(b"x" * 65536)
                WRITTEN += 65536
        except OSError:
            WRITTEN = -1
            raise

    def do_written(self, _):
        self.answer(b"%d" % WRITTEN)

    def do_big(self, query):
        self.answer((b"0123456789abcdef" * (int(query) // 16 + 1))[: int(query)])

    def do_sleep(self, query):
        time.sleep(float(query))
        self.answer(b"slept")

    def do_die(self, _):
        os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != 1 else os._exit(1)

    def do_vanish(self, _):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_close(self, _):
        self.close_connection = True
        self.answer(b"the last one", headers=[("Connection", "close")])

    def do_healthz(self, _):
        is_started = time.monotonic() - STARTED >= float(SETTINGS.get("warmup", 0))
        self.answer(b"", status=200 if WELL.is_set() and is_started else 503)

    def do_sicken(self, _):
        WELL.clear()
        self.answer(b"ill")

    def do_reach(self, query):
        try:
            host, port = query.split(":")
            socket.create_connection((host, int(port)), timeout=2).close()
            self.answer(b"reached")
        except OSError as error:
            self.answer(str(error).encode())

    def do_raw(self, query):
        """Whatever the request says, which need not be HTTP."""
        self.close_connection = True
        self.wfile.write(bytes.fromhex(query))

    def do_heads(self, _):
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"x-more: " + b"y" * 4096 + b"\r\n")

    def do_upgrade(self, _):
        """Speaks something else: every byte goes back, until there are no more."""
        if self.headers.get("Upgrade") != "echo":
            return self.answer(b"no", status=426)
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        while piece := self.connection.recv(65536):
            self.connection.sendall(piece)
        self.connection.sendall(b"bye")


class UnixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("unix", 0)


time.sleep(float(SETTINGS.get("sleep", 0)))
if path := os.environ.get("RAMET_HTTP_SOCKET"):
    if link := SETTINGS.get("link"):
        os.symlink(link, path)
        signal.pause()
    server = UnixServer(path, Handler)
else:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("serves", flush=True)
server.serve_forever()
