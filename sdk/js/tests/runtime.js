// Uses the language's own library, as the column `ask` of a row says, where the SDK has no part in it. The engine answers by
// WASI 0.2.
import { transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.*"],
  row(row) {
    switch (row.text("ask")) {
      case "print":
        console.log("printed");
        console.error("an error");
        return row.keep();
      case "clock":
        return row.emit({ value: new Date(Date.now()).toISOString() });
      case "date":
        return row.emit({ value: new Date(0).toISOString() });
      case "random":
        return row.emit({ value: Math.random() !== Math.random() });
      case "raise":
        throwHere();
    }
  },
});

function throwHere() {
  const error = new RangeError("thrown");
  throw error;
}
