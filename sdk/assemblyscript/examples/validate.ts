// Fails orders whose total is negative. At the first order of later@example.com it asks for a retry.
import { Interest, Operation, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

let asked = false;

class Validate extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "orders") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (!asked && row.isText("email", "later@example.com")) {
      asked = true;
      return row.retry("the rates are not there yet");
    }
    const total = row.text("total");
    if (row.operation != Operation.Delete && total !== null && total.startsWith("-")) {
      return row.fail("order " + row.int("id", 0).toString() + ": the total " + total + " is negative");
    }
    row.keep();
  }
}

register(new Validate());
