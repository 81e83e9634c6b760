"""Uses the language's own library, as the column `ask` of a row says, where the SDK has no part in it. The engine answers by
WASI 0.2."""

import datetime
import random
import sys
import time
import uuid

from rowmill import Transform, exported


class Runtime(Transform):
    tables = ["shop.*"]

    def row(self, row):
        match row.text("ask"):
            case "print":
                print("printed")
                print("an error", file=sys.stderr)
                row.keep()
            case "clock":
                now = datetime.datetime.now(datetime.timezone.utc)
                row.emit({"value": [int(time.time()), now.isoformat(timespec="seconds")]})
            case "duration":
                before = time.monotonic()
                time.sleep(30)
                row.emit({"value": time.monotonic() > before})
            case "random":
                row.emit({"value": uuid.uuid4() != uuid.uuid4() and random.random() != random.random()})
            case "raise":
                raise_here()
            case "file":
                open("/etc/passwd")


def raise_here():
    raise ValueError("raised")


WitWorld = exported(Runtime)
