// Calls the getter that each row names, for the case in sdk/cases/getters. The column `ask` is GETTER COLUMN [IMAGE].
import { Image, Interest, Json, Row, Table, Transform, register } from "./rowmill";
export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";

const body = new Json();

class Getters extends Transform {
  table(table: Table): Interest {
    if (table.schema != "shop") return Interest.Pass;
    if (table.name == "misspelt") {
      table.want("ask");
      table.want("statuss");
    } else if (table.name == "declared") {
      table.want("ask");
      table.want("NAME");
    }
    return Interest.All;
  }

  row(row: Row): void {
    const ask = row.text("ask");
    if (ask === null) return;
    const words = ask.split(" "), getter = words[0];
    const column = words.length > 1 ? words[1] : "", third = words.length > 2 ? words[2] : "";
    if (getter == "fail") return row.fail("asked to");
    if (getter == "set") {
      row.set(column, "x");
      return row.keep();
    }
    if (getter == "set_int") {
      row.setInt(column, 7);
      return row.keep();
    }
    if (getter == "replace") {
      row.replace(column, "x");
      return row.keep();
    }
    body.clear().put('{"value":');
    if (getter == "changed") body.put(row.changed(column).toString());
    else if (getter == "changed_to") body.put(row.changedTo(column, third).toString());
    else {
      const image: Image = third == "before" ? row.before : third == "after" ? row.after : row;
      // `has` itself is false where the row does not have the image.
      if (getter == "has" && !image.exists) return row.fail("the row has no " + third + " image");
      this.get(image, getter, column);
    }
    row.emit(body.put("}"));
  }

  private get(image: Image, getter: string, column: string): void {
    if (getter == "text") {
      body.string(image.text(column));
    } else if (getter == "int") {
      const value = image.int(column, 0);
      body.put(image.isNull(column) ? "null" : value.toString());
    } else if (getter == "uint") {
      const value = image.uint(column, 0);
      body.put(image.isNull(column) ? "null" : value.toString());
    } else if (getter == "float") {
      const value = image.float(column, 0);
      body.put(image.isNull(column) ? "null" : value.toString());
    } else if (getter == "bytes") {
      const bytes = image.bytes(column);
      if (bytes === null) {
        body.put("null");
      } else {
        let hex = "";
        for (let i = 0; i < bytes.length; i++) hex += (<u32>bytes[i]).toString(16).padStart(2, "0");
        body.string(hex);
      }
    } else if (getter == "has") {
      body.put(image.has(column).toString());
    } else {
      throw new Error("unknown getter " + getter);
    }
  }
}

register(new Getters());
