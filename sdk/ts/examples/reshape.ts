// Makes a small message of each change of an order, in a group for each customer.
import { type Batch, part, type Recipe, recipe, transform } from "./rowmill.js";

const { column, constant } = part;
const fields = ["id", "customer", "status", "total", "email"];
let change: Recipe, deletion: Recipe;

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  columns: fields,
  setup() {
    const group = ["customer-", column("customer")];
    change = recipe(Object.fromEntries(fields.map((name) => [name, column(name)])), group);
    deletion = recipe({ id: column("id"), deleted: constant(true) }, group);
  },
  batch(batch: Batch) {
    batch.write(change, batch.of("insert", "update"));
    batch.write(deletion, batch.of("delete"));
  },
});
