"""An SQS endpoint that takes messages whose requests are signed rightly, by botocore's signer and a clock that is an hour
ahead. Prints its port, then for each request with messages how many it takes, or why it takes none."""

import datetime
import json
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

CREDENTIALS = Credentials("test", "test", "a session's token")


def now():
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)


def fault(path, headers, body):
    """Why a request isn't signed rightly, if so."""
    said = headers["authorization"]
    time = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%S%z")
    if abs(now() - time) > datetime.timedelta(minutes=5):
        return "Signature expired"
    names = said.split("SignedHeaders=")[1].split(",")[0].split(";")
    for name in ("host", "x-amz-date", "x-amz-security-token", "x-amz-target"):
        if name not in names:
            return f"{name} isn't signed"
    added = ("host", "x-amz-date", "x-amz-security-token")
    signed = {name: headers[name] for name in names if name not in added}
    request = AWSRequest("POST", f"http://{headers['host']}{path}", data=body, headers=signed)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda: time.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(CREDENTIALS, "sqs", "us-east-1").add_auth(request)
    expected = request.headers["Authorization"]
    return None if said == expected else f"{said} is not {expected}"


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status, answer = 200, {"Attributes": {"MaximumMessageSize": "1048576"}}
        if self.headers["x-amz-target"] == "AmazonSQS.SendMessageBatch":
            why = fault(self.path, self.headers, body)
            entries = json.loads(body)["Entries"]
            print(why or f"took {len(entries)}", flush=True)
            if why:
                status = 403
                answer = {"__type": "com.amazon.coral.service#InvalidSignatureException", "message": why}
            else:
                answer = {"Successful": [{"Id": entry["Id"]} for entry in entries]}
        text = json.dumps(answer).encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(now(), usegmt=True))
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
print(server.server_port, flush=True)
server.serve_forever()
