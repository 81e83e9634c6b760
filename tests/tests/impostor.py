"""An impostor of a MySQL server, which tries to learn its clients' passwords.

Arguments: a mode, and optionally the files of a certificate and its key; else it makes its own. Prints its port, then a
line for each step of each connection: `connected`; `tls` or `tls refused`; `password` or `password by rsa`, with the
password; `encrypted` if another key encrypted the password; `proof` if it got only a scramble; `gone`. The modes:

tls: offers TLS, and asks for the password within it, by caching_sha2_password's full authentication
plain: offers no TLS, and gives its own public key to a client that asks for one
clear-tls, clear-plain: with and without TLS, switches to mysql_clear_password
silent: never sends anything
busy: refuses each connection with the error "Too many connections"
"""

import datetime
import itertools
import os
import secrets
import socket
import socketserver
import ssl
import string
import struct
import sys
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

LONG_PASSWORD, LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, SSL, TRANSACTIONS = 1, 1 << 2, 1 << 3, 1 << 9, 1 << 11, 1 << 13
SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS, PS_MULTI_RESULTS = 1 << 15, 1 << 16, 1 << 17, 1 << 18
PLUGIN_AUTH, CONNECT_ATTRS, LENENC_DATA, DEPRECATE_EOF = 1 << 19, 1 << 20, 1 << 21, 1 << 24
CAPABILITIES = (
    LONG_PASSWORD | LONG_FLAG | CONNECT_WITH_DB | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | MULTI_STATEMENTS
    | MULTI_RESULTS | PS_MULTI_RESULTS | PLUGIN_AUTH | CONNECT_ATTRS | LENENC_DATA | DEPRECATE_EOF
)
SHA2, CLEAR = b"caching_sha2_password", b"mysql_clear_password"
UTF8MB4, AUTOCOMMIT = 255, 2
ASK_FOR_KEY = b"\x02"
MODES = ("tls", "plain", "clear-tls", "clear-plain", "silent", "busy")


def say(line):
    print(f"{line}\n", end="", flush=True)  # one write, as each connection has a thread


def made_certificate(key):
    """Returns a self-signed certificate, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MySQL_Server")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def tls_context(files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files:
        context.load_cert_chain(*files)
        return context
    # The key comes first: ssl loads from files only.
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with tempfile.TemporaryDirectory() as directory:
        both = os.path.join(directory, "both.pem")
        with open(both, "wb") as file:
            file.write(KEY.private_bytes(*form) + made_certificate(KEY))
        context.load_cert_chain(both)
    return context


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        say("connected")
        self.sequence = 0
        self.has_proof = self.has_password = False
        try:
            if MODE == "busy":
                self.fail(1040, b"#08004", b"Too many connections")
            elif MODE != "silent":
                self.converse()
            while self.request.recv(4096):
                pass
        except OSError:
            pass  # the client is gone
        if self.has_proof and not self.has_password:
            say("proof")
        say("gone")

    def converse(self):
        self.nonce = "".join(secrets.choice(string.ascii_letters) for _ in range(20)).encode()
        has_tls = MODE in ("tls", "clear-tls")
        capabilities = CAPABILITIES | (SSL if has_tls else 0)
        fields = (capabilities & 0xFFFF, UTF8MB4, AUTOCOMMIT, capabilities >> 16, len(self.nonce) + 1)
        greeting = b"\x0a8.4.0\0" + struct.pack("<I", 8) + self.nonce[:8] + b"\0" + struct.pack("<HBHHB", *fields)
        self.send(greeting + bytes(10) + self.nonce[8:] + b"\0" + SHA2 + b"\0")
        response = self.receive()
        if has_tls and len(response) == 32 and struct.unpack_from("<I", response)[0] & SSL:
            try:
                self.request = CONTEXT.wrap_socket(self.request, server_side=True)
            except OSError as error:
                say(f"tls refused: {getattr(error, 'reason', None) or error}")
                return
            say("tls")
            response = self.receive()
        plugin, answer = self.parse(response)
        if plugin == CLEAR:
            self.learn("password", answer)
        elif MODE.startswith("clear"):
            self.has_proof = len(answer) > 1  # no password is empty, or a zero byte
            self.send(b"\xfe" + CLEAR + b"\0")
            self.learn("password", self.receive())
        else:
            if plugin != SHA2:
                self.send(b"\xfe" + SHA2 + b"\0" + self.nonce + b"\0")
                answer = self.receive()
            self.has_proof = len(answer) > 1
            self.send(b"\x01\x04")
            self.authenticate_fully()
        self.fail(1045, b"#28000", b"Access denied")

    def parse(self, response):
        """Returns the authentication plugin that a client chose, and its answer."""
        (capabilities,) = struct.unpack_from("<I", response)
        rest = response[32:].split(b"\0", 1)[1]  # after the user
        length, rest = rest[0], rest[1:]
        if length == 0xFC and capabilities & LENENC_DATA:
            length, rest = int.from_bytes(rest[:2], "little"), rest[2:]
        answer, rest = rest[:length], rest[length:]
        if capabilities & CONNECT_WITH_DB:
            rest = rest.split(b"\0", 1)[1]
        plugin = rest.split(b"\0", 1)[0] if capabilities & PLUGIN_AUTH else b"mysql_native_password"
        return plugin, answer

    def authenticate_fully(self):
        password = self.receive()
        asked = password == ASK_FOR_KEY
        if asked:
            form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            self.send(b"\x01" + KEY.public_key().public_bytes(*form))
            password = self.receive()
        if len(password) != KEY.key_size // 8:
            self.learn("password", password)
            return
        try:
            scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
            password = KEY.decrypt(password, scheme)
        except ValueError:
            say("encrypted, not by the key it was given" if asked else "encrypted by a key of its own")
            return
        password = bytes(byte ^ nonce for byte, nonce in zip(password, itertools.cycle(self.nonce)))
        self.learn("password by rsa", password)

    def learn(self, how, password):
        self.has_password = True
        say(f"{how}: {password.removesuffix(bytes(1)).decode(errors='backslashreplace')}")

    def fail(self, code, state, message):
        self.send(b"\xff" + struct.pack("<H", code) + state + message)
        self.request.shutdown(socket.SHUT_WR)

    def send(self, packet):
        self.request.sendall(len(packet).to_bytes(3, "little") + bytes([self.sequence]) + packet)
        self.sequence = (self.sequence + 1) % 256

    def receive(self):
        header = self.exactly(4)
        self.sequence = (header[3] + 1) % 256
        return self.exactly(int.from_bytes(header[:3], "little"))

    def exactly(self, count):
        """Reads exactly `count` bytes, as those after them may be TLS."""
        got = b""
        while len(got) < count:
            part = self.request.recv(count - len(got))
            if not part:
                raise ConnectionError
            got += part
        return got


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


MODE, FILES = sys.argv[1], sys.argv[2:4]
if MODE not in MODES:
    sys.exit(f"no mode {MODE}; there are {', '.join(MODES)}")
KEY = rsa.generate_private_key(65537, 2048)
CONTEXT = tls_context(FILES)
server = Server(("0.0.0.0", 0), Connection)
print(server.server_address[1], flush=True)
server.serve_forever()
