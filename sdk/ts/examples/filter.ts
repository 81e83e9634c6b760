// Keeps orders that became paid; drops all other changes of orders.
import { type Batch, changedTo, transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["status"],
  batch(batch: Batch) {
    batch.keep(batch.where({ status: changedTo("paid") }));
  },
});
