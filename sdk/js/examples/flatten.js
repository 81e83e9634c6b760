// Sends each order line as it is now, without its note, with a renamed price, the exact sum and the day.
import { recipe, transform } from "./rowmill.js";

const line = recipe({
  body: {
    "*": "{row_except(price, note)}",
    unit_price: "{price}",
    sum: "{price * quantity}",
    day: "{date_format(created_at, '%Y-%m-%d')}",
  },
});

export const { configure, describe, process } = transform({
  tables: ["shop.lines"],
  batch(batch) {
    batch.write(line, batch.of("insert", "update"));
  },
});
