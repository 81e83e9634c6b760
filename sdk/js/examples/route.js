// Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
import { equal, transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  batch(batch) {
    const german = batch.where({ country: equal("DE") });
    batch.keep(german, { sink: "europe", group: "DE" });
    batch.keep(batch.except(german));
    const withAddress = batch.texts("email", "after");
    batch.set(batch.rows.filter((row, index) => withAddress[index] !== null), "email", "hidden");
  },
});
