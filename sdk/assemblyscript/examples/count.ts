// Counts new orders per status since its start, and makes a message of each. Needs `instances = 1`.
import { Interest, Json, Operation, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const counts = new Map<string, u64>();
const body = new Json(), group = new Json();

class Count extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (row.operation != Operation.Insert) return;
    const status = row.text("status");
    if (status === null) return row.fail("order " + row.int("id", 0).toString() + " has no status");
    const count: u64 = counts.has(status) ? counts.get(status) + 1 : 1;
    counts.set(status, count);
    body.clear().put('{"status":').string(status).put(',"count":' + count.toString() + "}");
    row.emit(body, group.clear().put(status));
  }
}

register(new Count());
