// Uses the language's own library, as the column `ask` of a row says, where the SDK has no part in it. The engine answers by
// WASI 0.2.
import { type Row, transform } from "./rowmill.js";

export const { configure, describe, process } = transform({
  tables: ["shop.*"],
  row(row: Row) {
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

type Thrown = Error & {
  // Types that the build removes, so that the lines of what runs are others.
  code?: number;
};

function throwHere(): never {
  const error: Thrown = new RangeError("thrown");
  throw error;
}
