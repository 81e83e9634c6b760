// Sends a message for each line of a new order; the lines are a JSON array.
import { type Batch, recipe, transform } from "./rowmill.js";

const line = recipe({
  forEach: "lines",
  body: { order: "{id}", line: "{item_number()}", sku: "{item()->'$.sku'}", quantity: "{item()->'$.quantity'}" },
  group: "order-{id}",
});

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["id", "lines"],
  batch(batch: Batch) {
    batch.write(line, batch.of("insert"));
  },
});
