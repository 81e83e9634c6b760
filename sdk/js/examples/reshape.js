// Makes a small message of each change of an order, in a group for each customer.
import { recipe, transform } from "./rowmill.js";

const group = "customer-{customer}";
const body = { id: "{id}", customer: "{customer}", status: "{status}", total: "{total}", email: "{email}" };
const change = recipe({ body, group });
const deletion = recipe({ body: { id: "{id}", deleted: true }, group });

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  batch(batch) {
    batch.write(change, batch.of("insert", "update"));
    batch.write(deletion, batch.of("delete"));
  },
});
