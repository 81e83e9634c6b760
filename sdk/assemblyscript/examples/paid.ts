// Makes a message of each order that became paid, for the sink `order-management`.
import { Condition, Interest, Recipe, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const becamePaid = new Condition("changed_to(status, 'paid')");
const message = new Recipe(`{
  "body": {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
  "group": "customer-{customer}",
  "deduplication_id": "paid-{id}",
  "attributes": {"event": "order_paid"}
}`);

class Paid extends Transform {
  sinks(): string[] {
    return ["order-management"];
  }
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (becamePaid.holds(row)) row.write(message, "order-management");
  }
}

register(new Paid());
