// Counts the new orders of each status since the start, and sends each count. Needs `instances = 1` in its .toml.
import { transform } from "./rowmill.js";

const counts = new Map();

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["id", "status"],
  row(row) {
    if (row.operation !== "insert") return;
    const status = row.text("status");
    if (status === null) return row.fail(`order ${row.bigint("id")} has no status`);
    const count = (counts.get(status) ?? 0) + 1;
    counts.set(status, count);
    row.emit({ status, count }, { group: status });
  },
});
