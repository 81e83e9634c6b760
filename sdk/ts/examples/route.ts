// Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
import { type Batch, transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: ["country", "email"],
  sinks: ["europe"],
  batch(batch: Batch) {
    batch.keep(batch.all);
    batch.keep(batch.where("country = 'DE'"), { sink: "europe", group: "DE" });
    batch.replace(batch.all, "email", "hidden");
  },
});
