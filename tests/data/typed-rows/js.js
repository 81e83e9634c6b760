// Keeps orders that became paid, by typed rows.
import { transform } from "./rowmill.js";
import { Orders, OrdersColumns } from "./rows.js";

export const { configure, describe, process } = transform({
  tables: [Orders.TABLE],
  row(row) {
    const order = new Orders(row);
    const status = order.status;
    if (status === "new") {
      const { id, customer, rating, total } = order;
      if (id !== 1n || customer !== 7 || rating !== null || total !== "9.50") throw new Error("not the row");
    }
    if (row.before?.has(OrdersColumns.status) && order.before?.status === status) return;
    if (status === "paid" && row.changedTo(OrdersColumns.status, status)) row.keep();
  },
});
