// Sends a message for each order that became paid.
import { recipe, transform } from "./rowmill.js";

const paid = recipe({
  body: { event: "order_paid", order: "{id}", customer: "{customer}", total: "{total}" },
  group: "customer-{customer}",
  deduplicationId: "paid-{id}",
  attributes: { event: "order_paid" },
});

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["id", "customer", "status", "total"],
  sinks: ["order-management"],
  batch(batch) {
    batch.write(paid, batch.where("changed_to(status, 'paid')"), { sink: "order-management" });
  },
});
