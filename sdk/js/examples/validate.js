// Fails orders with a negative total, keeps all others, and asks once to be called again.
import { Retry, transform } from "./rowmill.js";

let hasRates = false;

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["id", "email", "total"],
  row(row) {
    if (!hasRates && row.text("email") === "later@example.com") {
      hasRates = true;
      throw new Retry("the rates are not there yet");
    }
    const total = row.after?.decimal("total");
    if (total?.startsWith("-")) return row.fail(`order ${row.bigint("id")}: the total ${total} is negative`);
    row.keep();
  },
});
