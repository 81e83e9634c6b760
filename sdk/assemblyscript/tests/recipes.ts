// Selects rows by conditions and lets the engine write their messages, for the case in sdk/cases/recipes.
import { Condition, Interest, Recipe, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const becamePaid = new Condition("changed_to(status, 'paid')");
const hasNewLines = new Condition("op() = 'c' and lines is not null");
const isPaidDeleted = new Condition("old.status = 'paid' and op() = 'd'");
const isKept = new Condition("email like '%@example.com' or price > quantity * 100");

const paid = new Recipe(`{
  "body": {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
  "group": "customer-{customer}",
  "deduplication_id": "paid-{id}",
  "attributes": {"event": "order_paid", "status": "{status}"}
}`);
const line = new Recipe(`{
  "for_each": "lines",
  "body": {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
  "group": "order-{id}"
}`);
const deleted = new Recipe(`{
  "body": {
    "*": "{old_row_except(email, price)}",
    "cost": "{number(price)}",
    "day": "{date_format(created_at, '%d.%m.%Y')}"
  }
}`);

class Recipes extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (becamePaid.holds(row)) row.write(paid);
    if (hasNewLines.holds(row)) row.write(line, "lines");
    if (isPaidDeleted.holds(row)) row.write(deleted);
    if (isKept.holds(row)) row.keep();
  }
}

register(new Recipes());
