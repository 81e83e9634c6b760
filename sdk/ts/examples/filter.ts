// Keeps orders that became paid; drops all other changes of orders.
import { type Batch, transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["status"],
  batch(batch: Batch) {
    batch.keep(batch.where("changed_to(status, 'paid')"));
  },
});
