// Makes a message of each line of a new order.
import { Interest, Operation, Recipe, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const message = new Recipe(`{
  "for_each": "lines",
  "body": {
    "order": "{id}",
    "line": "{item_number()}",
    "sku": "{item()->'$.sku'}",
    "quantity": "{item()->'$.quantity'}"
  },
  "group": "order-{id}"
}`);

class Split extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (row.operation == Operation.Insert) row.write(message);
  }
}

register(new Split());
