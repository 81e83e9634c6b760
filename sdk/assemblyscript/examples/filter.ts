// Keeps orders that became paid; drops all other changes of orders.
import { Interest, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

class Filter extends Transform {
  table(table: Table): Interest {
    if (!table.is("shop", "orders")) return Interest.Pass;
    table.want("status");
    return Interest.All;
  }
  row(row: Row): void {
    if (row.changedTo("status", "paid")) row.keep();
  }
}

register(new Filter());
