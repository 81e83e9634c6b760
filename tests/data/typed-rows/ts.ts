// Keeps orders that became paid, by typed rows.
import { type Row, transform } from "./rowmill.js";
import { Orders, OrdersColumns, type OrdersStatus } from "./rows.js";

const PAID: OrdersStatus = "paid";

export const { configure, describe, process } = transform({
  tables: [Orders.TABLE],
  row(row: Row) {
    const order = new Orders(row);
    const status = order.status;
    if (status === "new") {
      const id: bigint = order.id;
      const customer: number | null = order.customer;
      const total: string | null = order.total;
      if (id !== 1n || customer !== 7 || order.rating !== null || total !== "9.50") throw new Error("not the row");
    }
    if (row.before?.has(OrdersColumns.status) && order.before?.status === status) return;
    if (status === PAID && row.changedTo(OrdersColumns.status, PAID)) row.keep();
  },
});
