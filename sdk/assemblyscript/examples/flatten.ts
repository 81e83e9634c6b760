// Makes a message of each new or changed order line: its columns without the note, its sum and its day.
import { Interest, Operation, Recipe, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const message = new Recipe(`{
  "body": {
    "*": "{row_except(note, price)}",
    "unit_price": "{price}",
    "sum": "{price * quantity}",
    "day": "{date_format(created_at, '%Y-%m-%d')}"
  }
}`);

class Flatten extends Transform {
  table(table: Table): Interest {
    return table.is("shop", "lines") ? Interest.All : Interest.Pass;
  }
  row(row: Row): void {
    if (row.operation != Operation.Delete) row.write(message);
  }
}

register(new Flatten());
