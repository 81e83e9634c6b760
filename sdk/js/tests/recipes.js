// A transform for tests: messages by recipes, of rows that conditions select.
import { recipe, transform } from "./rowmill.js";

const paid = recipe({
  body: { event: "order_paid", id: "{id}", sum: "{price * quantity}" },
  group: "customer-{customer}",
  deduplicationId: "paid-{id}",
  attributes: { event: "order_paid", status: "{status}" },
});
const line = recipe({
  forEach: "lines",
  body: { order: "{id}", line: "{item_number()}", sku: "{item()->'$.sku'}" },
  group: "order-{id}",
});
const canceled = recipe({
  body: {
    "*": "{old_row_except(email, price)}",
    cost: "{number(price)}",
    day: "{date_format(created_at, '%d.%m.%Y')}",
  },
});

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  batch(batch) {
    batch.write(paid, batch.where("changed_to(status, 'paid')"));
    batch.write(line, batch.of("insert").where("lines is not null"), { sink: "lines" });
    batch.write(canceled, batch.where("old.status = 'paid'").of("delete"));
    batch.keep(batch.where("email like '%@example.com' or price > quantity * 100"));
  },
});
