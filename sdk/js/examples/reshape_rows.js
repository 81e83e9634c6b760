// The reshape, row by row: makes a small message of each change of an order, in a group for each customer.
import { transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  row(row) {
    const [customer, id] = [row.integer("customer"), row.integer("id")];
    const texts = () => ({ status: row.text("status"), total: row.text("total"), email: row.text("email") });
    const body = row.operation === "delete" ? { id, deleted: true } : { id, customer, ...texts() };
    row.emit(body, { group: `customer-${customer ?? ""}` });
  },
});
