// Makes a small message of each change of an order, in a group for each customer.
import { part, recipe, transform } from "./rowmill.js";

const { column, constant } = part;
let change, deletion;

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  setup() {
    const fields = ["id", "customer", "status", "total", "email"];
    const group = ["customer-", column("customer")];
    change = recipe(Object.fromEntries(fields.map((name) => [name, column(name)])), group);
    deletion = recipe({ id: column("id"), deleted: constant(true) }, group);
  },
  batch(batch) {
    batch.write(change, batch.of("insert", "update"));
    batch.write(deletion, batch.of("delete"));
  },
});
