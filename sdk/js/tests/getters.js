// A transform for tests: each row of schema `shop` names a getter, and the result is sent as a message.
//
// The text column `ask` is split at blanks: GETTER COLUMN [IMAGE or TEXT].
import { transform } from "./rowmill.js";

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

const READ = {
  text: (image, column) => JSON.stringify(image.text(column)),
  int: (image, column) => String(image.bigint(column)),
  uint: (image, column) => String(image.unsigned(column)),
  float: (image, column) => JSON.stringify(image.float(column)),
  bytes: (image, column) => {
    const bytes = image.bytes(column);
    return bytes === null ? "null" : `"${hex(bytes)}"`;
  },
  has: (image, column) => String(image.has(column)),
};

const EDIT = {
  set: (row, column) => row.set(column, "x"),
  set_int: (row, column) => row.set(column, 7),
  replace: (row, column) => row.replace(column, "x"),
};

/** Returns the value of a getter, as JSON. */
function value(row, getter, column, argument) {
  if (getter === "changed") return String(row.changed(column));
  if (getter === "changed_to") return String(row.changedTo(column, argument));
  const image = argument === undefined ? row : row[argument];
  if (image !== null) return READ[getter](image, column);
  throw `the row has no ${argument} image`;
}

const made = transform({
  columns: { "shop.misspelt": ["ask", "statuss"], "shop.declared": ["ask", "NAME"] },
  row(row) {
    const [getter, column, argument] = row.text("ask").split(" ");
    if (getter === "fail") return row.fail("asked to");
    if (getter in EDIT) {
      EDIT[getter](row, column);
      return row.keep();
    }
    row.emit(`{"value":${value(row, getter, column, argument)}}`);
  },
});

export const { configure, process } = made;
export const describe = (table) => (table.schema === "shop" ? made.describe(table) : { tag: "pass" });
