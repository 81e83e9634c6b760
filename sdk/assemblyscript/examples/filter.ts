// Keeps orders that became paid; drops all other changes of orders.
import { Interest, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

class Filter extends Transform {
  table(table: Table): Interest {
    table.want("status");
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (row.changedTo("status", "paid")) row.keep();
  }
}

register(new Filter());
