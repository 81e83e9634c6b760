"""Counts rows by python-mysql-replication, for the benchmark.

Arguments: port (the user is root, without a password), binlog file, rows to count. Prints the seconds from the start to
the first row, and from the first row to the last.
"""

import sys
import time

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

port, file, expected = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
started = time.monotonic()
first, count = None, 0
stream = BinLogStreamReader(
    connection_settings={"host": "127.0.0.1", "port": port, "user": "root"},
    server_id=4244,
    log_file=file,
    log_pos=4,
    resume_stream=True,
    only_schemas=["bench"],
    only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
)
for event in stream:
    count += len(event.rows)
    if first is None:
        first = time.monotonic()
    if count >= expected:
        break
print(f"{first - started:.3f} {time.monotonic() - first:.3f}")
