// Makes a small message of each change of an order, in a group for each customer.
import { Interest, Json, Operation, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const body = new Json(), group = new Json();

class Reshape extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    group.clear().put("customer-").plain(row, "customer");
    body.clear().put('{"id":').int(row, "id");
    if (row.operation == Operation.Delete) {
      body.put(',"deleted":true}');
    } else {
      body.put(',"customer":').int(row, "customer").put(',"status":').text(row, "status");
      body.put(',"total":').text(row, "total").put(',"email":').text(row, "email").put("}");
    }
    row.emit(body, group);
  }
}

register(new Reshape());
