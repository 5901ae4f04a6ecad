"""A WebSocket of the stories that are written in Python, with nothing but its library."""

import base64
import json
import os
import socket
import struct

WAIT_SECONDS = 20


class WebSocket:
    """As much of RFC 6455 as a client of text frames needs."""

    def __init__(self, port, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.decode())

    def fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self.buffer += data

    def take(self, count):
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def send(self, data, opcode=1):
        # A mask of nothing is a mask too.
        if len(data) < 126:
            length = bytes([0x80 | len(data)])
        elif len(data) < 65536:
            length = bytes([0x80 | 126]) + struct.pack(">H", len(data))
        else:
            length = bytes([0x80 | 127]) + struct.pack(">Q", len(data))
        self.socket.sendall(bytes([0x80 | opcode]) + length + bytes(4) + data)

    def receive(self):
        while True:
            first, second = self.take(2)
            length = second & 127
            if length == 126:
                length = struct.unpack(">H", self.take(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.take(8))[0]
            data, opcode = self.take(length), first & 15
            if opcode == 1:
                return json.loads(data)
            if opcode == 9:
                self.send(data, 10)
            if opcode == 8:
                raise ConnectionError("closed by the server")

    def close(self):
        self.socket.close()
