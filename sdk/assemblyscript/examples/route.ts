// Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
import { Interest, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

class Route extends Transform {
  sinks(): string[] {
    return ["europe"];
  }
  table(table: Table): Interest {
    if (!table.is("shop", "orders")) return Interest.Pass;
    table.want("country");
    table.want("email");
    return Interest.All;
  }
  row(row: Row): void {
    if (row.isText("country", "DE")) row.keepTo("europe", "DE");
    else row.keep();
    row.replace("email", "hidden");
  }
}

register(new Route());
