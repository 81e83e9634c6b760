// The filter, row by row: keeps orders that became paid.
import { transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["status"],
  row(row) {
    if (row.changedTo("status", "paid")) row.keep();
  },
});
