// Write Rowmill transforms in JavaScript: this file is all there is.
//
//   import { changedTo, transform } from "./rowmill.js";
//
//   export const { configure, describe, process } = transform({
//     tables: ["shop.orders"],
//     batch(batch) {
//       batch.keep(batch.where({ status: changedTo("paid") }));
//     },
//   });
//
// A batch is asked about as a whole, and the engine writes messages as a recipe says: so a row costs next to
// nothing, though JavaScript is interpreted. Rows are known by their numbers. A row that is neither kept nor
// failed is dropped; rows of other tables pass.
//
//   npx componentize-qjs --sync --wit wit --js NAME.js -o NAME.wasm
//
// Integers beyond 2^53 lose digits as numbers: take them as texts.
import host from "rowmill:transform/host@0.1.0";
import query from "rowmill:transform/query@0.1.0";

/** What of a column `where` asks for. */
export const equal = (value) => ({ tag: "equal", val: String(value) });
export const oneOf = (...values) => ({ tag: "one-of", val: values.map(String) });
export const prefix = (text) => ({ tag: "prefix", val: text });
/** Both inclusive; `undefined` is no bound. */
export const between = (low, high) => ({ tag: "between", val: [String(low ?? ""), String(high ?? "")] });
export const isNull = { tag: "null" };
export const changed = { tag: "changed" };
/** It is this now and wasn't before. */
export const changedTo = (value) => ({ tag: "changed-to", val: String(value) });
export const not = (test) => ({ ...test, negated: !test.negated });
/** About the row as it was before. */
export const before = (test) => ({ ...test, view: "before" });

/** What a recipe puts into a message. */
export const part = {
  column: (name) => ({ tag: "column", val: name }),
  before: (name) => ({ tag: "before", val: name }),
  constant: (value) => ({ tag: "constant", val: JSON.stringify(value) }),
  row: { tag: "row" },
  rowBefore: { tag: "row-before" },
  operation: { tag: "operation" },
  schema: { tag: "schema" },
  table: { tag: "table" },
  time: { tag: "time" },
};

/**
 * A way to make messages: `recipe({ id: part.column("id"), kind: part.constant("order") })`. Make it once, when
 * the transform is configured or later. `group` is made of texts and `part.column(name)`s.
 */
export function recipe(fields, group = []) {
  const groupPart = (part) => (typeof part === "string" ? { tag: "text", val: part } : { tag: "column", val: part.val });
  return host.addRecipe({
    fields: Object.entries(fields).map(([name, value]) => ({ name, value })),
    group: group.map(groupPart),
  });
}

export const log = (message, level = "info") => host.log(level, String(message));
export const count = (counter, n = 1) => host.count(counter, n);
export const now = () => host.now();
export const env = (name) => host.env(name);

const sinks = new Map();
function sinkNumber(name) {
  if (name === undefined) return null;
  if (!sinks.has(name)) {
    const number = host.sink(name);
    if (number === null || number === undefined) throw new Error(`the configuration has no sink \`${name}\``);
    sinks.set(name, number);
  }
  return sinks.get(name);
}

/** As UTF-8: QuickJS has no TextEncoder. */
function encoded(text) {
  const bytes = new Uint8Array(text.length * 3);
  let length = 0;
  for (let i = 0; i < text.length; i++) {
    let point = text.charCodeAt(i);
    if (point < 0x80) {
      bytes[length++] = point;
      continue;
    }
    if (point >= 0xd800 && point < 0xe000) {
      const low = text.charCodeAt(i + 1);
      const isPair = point < 0xdc00 && low >= 0xdc00 && low < 0xe000;
      point = isPair ? 0x10000 + ((point - 0xd800) * 0x400 + (low - 0xdc00)) : 0xfffd;
      if (isPair) i++;
    }
    if (point < 0x800) bytes[length++] = 0xc0 | (point >> 6);
    else {
      if (point < 0x10000) bytes[length++] = 0xe0 | (point >> 12);
      else {
        bytes[length++] = 0xf0 | (point >> 18);
        bytes[length++] = 0x80 | ((point >> 12) & 63);
      }
      bytes[length++] = 0x80 | ((point >> 6) & 63);
    }
    bytes[length++] = 0x80 | (point & 63);
  }
  return bytes.subarray(0, length);
}

const tables = new Map();

/** Texts and bytes of a verdict, one behind the other. */
class Arena {
  parts = [];
  length = 0;
  add(value) {
    const bytes = typeof value === "string" ? encoded(value) : value;
    this.parts.push(bytes);
    this.length += bytes.length;
    return bytes.length;
  }
}

class Batch {
  #kept = new Set();
  #reroutes = [];
  #edits = [];
  #emits = [];
  #attributes = [];
  #writes = [];
  #fails = [];
  #arenas = { reroutes: new Arena(), edits: new Arena(), emits: new Arena(), attributes: new Arena(), fails: new Arena() };
  #rows;
  #tables;

  /** The numbers of all rows. */
  get rows() {
    return (this.#rows ??= Array.from(query.asked()));
  }
  /** The numbers of the rows for which all of these hold: `{ column: test }`. */
  where(tests) {
    const condition = ([column, { view = "newest", negated = false, ...test }]) => ({ column, view, test, negated });
    return Array.from(query.select(Object.entries(tests).map(condition)));
  }
  /** The numbers of the other rows. */
  except(rows) {
    const without = new Set(rows);
    return this.rows.filter((row) => !without.has(row));
  }
  /** For each row of `rows`: "insert", "update" or "delete". */
  get operations() {
    return Array.from(query.operations(), (number) => [, "insert", "update", "delete"][number]);
  }
  /** The numbers of the rows of these operations. */
  of(...operations) {
    const all = this.operations;
    return this.rows.filter((_, index) => operations.includes(all[index]));
  }
  /** A column of each row of `rows`; null where it is NULL or absent. `view`: newest, before or after. */
  texts(column, view = "newest") {
    return query.texts(column, view);
  }
  integers(column, view = "newest") {
    return query.integers(column, view);
  }
  floats(column, view = "newest") {
    return query.floats(column, view);
  }
  /** Each row of `rows` as an object. */
  objects(view = "newest") {
    return query.json(view).map((text) => (text === null ? null : JSON.parse(text)));
  }
  /** These rows stay. They may go to a sink, in a group. */
  keep(rows, { sink, group } = {}) {
    for (const row of rows) {
      this.#kept.add(row);
      if (sink === undefined && group === undefined) continue;
      this.#reroutes.push({ row, sink: sinkNumber(sink), groupLen: this.#arenas.reroutes.add(group ?? "") });
    }
  }
  /** A column of these rows gets another value in the row as it is now: text, a number, or null. */
  set(rows, column, value) {
    this.#tables ??= new Map(Array.from(query.tables(), (table, index) => [this.rows[index], table]));
    // The same for all rows of a table.
    const edits = new Map();
    for (const row of rows) {
      const id = this.#tables.get(row);
      let edit = edits.get(id);
      if (!edit) {
        const { columns } = tables.get(id);
        const index = columns.findIndex(({ name }) => name === column);
        if (index < 0) throw new Error(`there is no column \`${column}\``);
        edit = { column: index, bytes: packed(columns[index].kind, value) };
        edits.set(id, edit);
      }
      const valueLen = this.#arenas.edits.add(edit.bytes);
      this.#edits.push({ row, image: "after", column: edit.column, state: value === null ? 1 : 2, valueLen });
    }
  }
  /** The engine makes a message of each of these rows, as the recipe says. */
  write(recipe, rows, { sink } = {}) {
    if (rows.length) this.#writes.push({ recipe, sink: sinkNumber(sink), rows });
  }
  /** A message is made of the row. */
  emit(row, body, { sink, group = "", deduplicationId = "", attributes = {} } = {}) {
    const arena = this.#arenas.emits;
    const [groupLen, dedupLen] = [arena.add(group), arena.add(deduplicationId)];
    const bodyLen = arena.add(typeof body === "string" ? body : JSON.stringify(body));
    for (const [name, value] of Object.entries(attributes)) {
      const [nameLen, valueLen] = [this.#arenas.attributes.add(name), this.#arenas.attributes.add(value)];
      this.#attributes.push({ emit: this.#emits.length, nameLen, valueLen });
    }
    this.#emits.push({ row, sink: sinkNumber(sink), groupLen, dedupLen, bodyLen });
  }
  /** The row can't be processed; the plugin's `on_error` says what becomes of it. */
  fail(row, message) {
    this.#fails.push({ row, messageLen: this.#arenas.fails.add(message) });
  }
  verdict() {
    const { reroutes, edits, emits, attributes, fails } = this.#arenas;
    const parts = [reroutes, edits, emits, attributes, fails];
    const arena = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const bytes of parts.flatMap(({ parts }) => parts)) {
      arena.set(bytes, at);
      at += bytes.length;
    }
    return {
      keep: [...this.#kept],
      reroutes: this.#reroutes,
      edits: this.#edits,
      emits: this.#emits,
      attributes: this.#attributes,
      writes: this.#writes,
      fails: this.#fails,
      arena,
    };
  }
}

function packed(kind, value) {
  if (value === null) return new Uint8Array(0);
  const number = new DataView(new ArrayBuffer(8));
  if (kind === "int") number.setBigInt64(0, BigInt(value), true);
  else if (kind === "uint" || kind === "year" || kind === "bit") number.setBigUint64(0, BigInt(value), true);
  else if (kind === "float") number.setFloat64(0, value, true);
  else return encoded(String(value));
  return new Uint8Array(number.buffer);
}

/**
 * What the module exports. `tables` are those whose rows it decides on (by default all), `setup` is called once with
 * the settings, `batch` for each batch.
 */
export function transform({ tables: wanted, setup, batch }) {
  return {
    configure(settings) {
      try {
        setup?.(JSON.parse(settings));
      } catch (error) {
        throw String(error?.message ?? error);
      }
    },
    describe(table) {
      tables.set(table.id, table);
      const isWanted = !wanted || wanted.includes(`${table.schema}.${table.name}`);
      return { tag: isWanted ? "all" : "pass" };
    },
    process(rows) {
      const work = new Batch();
      try {
        batch(work);
      } catch (error) {
        throw { tag: "reject", val: String(error?.message ?? error) };
      }
      return work.verdict();
    },
  };
}
