// The reshape, row by row: makes a small message of each change of an order, in a group for each customer.
import { transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.orders"],
  row(row) {
    const [id, customer] = [row.integer("id"), row.integer("customer")];
    const texts = () => ({ status: row.text("status"), total: row.text("total"), email: row.text("email") });
    const body = row.operation === "delete" ? { id, deleted: true } : { id, customer, ...texts() };
    row.emit(body, { group: `customer-${customer ?? ""}` });
  },
});
