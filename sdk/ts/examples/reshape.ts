// Makes a small message of each change of an order, in a group for each customer.
import { type Batch, recipe, transform } from "./rowmill.js";

const columns = ["id", "customer", "status", "total", "email"];
const group = "customer-{customer}";
const change = recipe({ body: Object.fromEntries(columns.map((name) => [name, `{${name}}`])), group });
const deletion = recipe({ body: { id: "{id}", deleted: true }, group });

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns,
  batch(batch: Batch) {
    batch.write(change, batch.of("insert", "update"));
    batch.write(deletion, batch.of("delete"));
  },
});
