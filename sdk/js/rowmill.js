// The Rowmill SDK for transforms in JavaScript, in one file.
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
// `batch` is called for each batch. The host selects the rows, applies commands to all of them at once, and writes
// messages by recipes, so that a row costs little although JavaScript is interpreted. A transform that must read each
// row has `row` instead, which is called for each row and takes a few microseconds:
//
//     row(row) {
//       if (row.changedTo("status", "paid")) row.keep();
//     },
//
// A row that is neither kept nor failed is dropped; rows of other tables pass. An exception in `row` is a failure of
// that row: its messages and edits are discarded, the plugin's `on_error` decides on it, and the other rows are not
// affected. An exception in `batch` rejects the batch, and the engine then tries each of its rows alone.
// `throw new Retry("...")` is a transient failure of the batch.
//
// To read a column is an error if the table lacks it, the transform does not declare it, the getter is of another type,
// or the row's image does not contain it; NULL is `null`. Names of columns are compared without case.
//
//   npx componentize-qjs --sync --stub-wasi --wit wit --world transform --js NAME.js -o NAME.wasm
import batchRows from "rowmill:transform/batch@0.1.0";
import bulk from "rowmill:transform/bulk@0.1.0";
import host from "rowmill:transform/host@0.1.0";
import query from "rowmill:transform/query@0.1.0";

/** A transient failure, thrown by `row` or `batch`: the engine calls the transform again with the same batch. */
export class Retry extends Error {}

/** The error of a getter or an edit that does not fit the column: the row's failure, with this message. */
export class ColumnError extends Error {}

/** Tests of a column, for `where`. Their values are texts, numbers or bigints. */
export const equal = (value) => ({ tag: "equal", val: valueText(value) });
export const oneOf = (...values) => ({ tag: "one-of", val: values.map(valueText) });
export const prefix = (text) => ({ tag: "prefix", val: valueText(text) });
/** Both bounds are inclusive; `undefined` is no bound. */
export const between = (low, high) => ({ tag: "between", val: [bound(low), bound(high)] });
export const isNull = { tag: "null" };
/** The update changed the column; true for all inserts and deletes. */
export const changed = { tag: "changed" };
/** The column has this value after the change, and had another one, or none, before it. */
export const changedTo = (value) => ({ tag: "changed-to", val: valueText(value) });
export const not = (test) => ({ ...test, negated: !test.negated });
/** Applies a test to the before image. */
export const before = (test) => ({ ...test, view: "before" });

/** Returns a value as the host parses it. */
function valueText(value) {
  if (typeof value === "string") return value;
  if (typeof value === "bigint" || Number.isFinite(value)) return String(value);
  throw new Error(`${value} is not a column's value; use a text, a number or a bigint`);
}
const bound = (value) => (value === undefined ? "" : valueText(value));
const valueOrNull = (value) => (value === null ? null : valueText(value));

/** The values that a recipe puts into a message. */
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
 * Makes a recipe, by which the host writes messages: `recipe({ id: part.column("id"), kind: part.constant("order") })`.
 * Make it once, in `setup` or later. `group` consists of texts and `part.column(name)`s.
 */
export function recipe(fields, group = []) {
  return host.addRecipe({
    fields: Object.entries(fields).map(([name, value]) => ({ name, value })),
    group: groupParts(group),
  });
}

function groupParts(group) {
  const groupPart = (part) =>
    typeof part === "string" ? { tag: "text", val: part } : { tag: "column", val: part.val };
  return [group].flat().filter((part) => part !== "").map(groupPart);
}

export const log = (message, level = "info") => host.log(level, String(message));
export const count = (counter, n = 1) => host.count(counter, n);
/** Returns the time in microseconds since 1970, or null if the clock is not granted. */
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

const TYPE_OF_KIND = new Map();
for (const [type, kinds] of [
  ["text", ["decimal", "text", "json", "date", "time", "datetime", "timestamp", "enum", "set"]],
  ["an integer", ["int", "uint", "year", "bit"]],
  ["a float", ["float"]],
  ["bytes", ["bytes", "geometry", "vector"]],
]) {
  for (const kind of kinds) TYPE_OF_KIND.set(kind, type);
}

/** Returns a name without case, as the host does: character by character. */
const folded = (name) => Array.from(name, (character) => character.toLowerCase()).join("");

/** Returns a name as it is written beside a dot: within backticks where it has a dot or a backtick. */
const quoted = (name) => (/[.`]/.test(name) ? "`" + name.replaceAll("`", "``") + "`" : name);
const fullName = ({ schema, name }) => `${quoted(schema)}.${quoted(name)}`;

/** A table version, by its description. */
class Table {
  #exact = new Map();
  #folded = new Map();
  constructor(description, declared) {
    this.name = fullName(description);
    const names = new Set(declared.map(folded));
    this.columns = description.columns.map(({ name, kind, mysqlType }, index) => ({
      table: this,
      index,
      name,
      kind,
      mysqlType,
      type: TYPE_OF_KIND.get(kind),
      // Whether the host has no value only where it is NULL or absent: not so for changes of JSON and large integers.
      isNullIfNone: kind !== "json" && kind !== "bit" && mysqlType !== "bigint unsigned",
      isDeclared: !names.size || names.has(folded(name)),
      title: `column \`${name}\` of ${this.name}`,
    }));
    for (const column of this.columns) {
      this.#exact.set(column.name, column);
      this.#folded.set(folded(column.name), column);
    }
  }
  /** Returns the column of this name, or undefined. */
  find(name) {
    return this.#exact.get(name) ?? this.#folded.get(folded(name));
  }
  /** Returns a column that may be read as `type` (undefined: as any type), or throws. */
  column(name, type) {
    const column = this.find(name);
    if (!column) throw new ColumnError(`${this.name} has no column \`${name}\``);
    if (!column.isDeclared) {
      throw new ColumnError(`${column.title} is not among the columns that the transform declares`);
    }
    const isRead = type === undefined || type === column.type || (type === "a decimal" && column.kind === "decimal");
    if (!isRead) throw mismatch(column, type);
    return column;
  }
  /** Whether the host may be asked for this column: it rejects the batch if a table does not declare the column. */
  admits(name) {
    return this.find(name)?.isDeclared ?? true;
  }
}

const mismatch = ({ title, mysqlType, type }, wanted) =>
  new ColumnError(`${title} is ${mysqlType}, which is read as ${type}, not as ${wanted}`);

/** The described tables, by ID. A later table takes the place of an earlier one with its ID. */
const tables = new Map();

// Getters: the type of columns that they read; the host's query; whether a value of the host is exact, if not all are;
// and how to read a packed value.

const TEXT = { type: "text", ask: query.texts, unpack: utf8 };
const HAS = { ask: query.has };
const FLOAT = { type: "a float", ask: query.floats, unpack: (bytes) => dataView(bytes).getFloat64(0, true) };
const BYTES = { type: "bytes", ask: query.blobs, unpack: (bytes) => bytes.slice() };
// The host's integers come as numbers, rounded beyond 2^53.
const integers = (isExact, unpack) => ({ type: "an integer", ask: query.integers, isExact, unpack });
const BIGINT = integers(Number.isSafeInteger, signed);
const UNSIGNED = integers((value) => value >= 0 && Number.isSafeInteger(value), (bytes, column) => {
  const value = integer(bytes, column);
  if (value < 0n) throw new ColumnError(`${column.title} is ${value}, which does not fit an unsigned integer`);
  return value;
});
const INTEGER = integers(Number.isSafeInteger, (bytes, column) => {
  const value = signed(bytes, column);
  if (-(2n ** 53n) <= value && value <= 2n ** 53n) return Number(value);
  throw new ColumnError(`${column.title} is ${value}, which does not fit a number exactly; read it with \`bigint\``);
});

const dataView = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
function integer(bytes, { kind }) {
  return kind === "int" ? dataView(bytes).getBigInt64(0, true) : dataView(bytes).getBigUint64(0, true);
}
function signed(bytes, column) {
  const value = integer(bytes, column);
  if (value >= 2n ** 63n) throw new ColumnError(`${column.title} is ${value}, which does not fit a signed integer`);
  return value;
}
function utf8(bytes) {
  return decodeURIComponent(Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""));
}
const toBigint = (value) => (typeof value === "number" ? BigInt(value) : value);

/** States of a column in a packed image, beside 2: a value. */
const ABSENT = 0;
const NULL = 1;
const CHANGES = 3;

const OPERATIONS = ["insert", "update", "delete"];

/** What the host says of a batch; each question is asked once. An index is a row's index in `rows`. */
class Answers {
  #rows;
  #indexes;
  #operations;
  #ids;
  #distinct;
  #packed;
  #columns = new Map();
  #changed = new Map();
  constructor(batch) {
    this.batch = batch;
  }

  /** The numbers of the rows on which the transform decides. */
  get rows() {
    return (this.#rows ??= Array.from(query.asked()));
  }
  operation(index) {
    return OPERATIONS[(this.#operations ??= query.operations())[index] - 1];
  }
  get #tableIds() {
    return (this.#ids ??= query.tables());
  }
  table(index) {
    return tables.get(this.#tableIds[index]);
  }
  /** The tables that have rows in the batch. */
  get #tables() {
    return (this.#distinct ??= Array.from(new Set(this.#tableIds), (id) => tables.get(id)));
  }
  indexOf(number) {
    this.#indexes ??= new Map(this.rows.map((number, index) => [number, index]));
    return this.#indexes.get(number);
  }
  hasImage(index, view) {
    return view === "newest" || this.operation(index) !== (view === "before" ? "insert" : "delete");
  }

  /** Returns a column's value, or null where it is NULL or the row has no such image. */
  get(getter, column, view, index, values = this.values(getter, column, view)) {
    const value = values[index];
    if (getter.isExact) return getter.isExact(value) ? value : this.read(getter, column, view, index, value);
    return value ?? this.read(getter, column, view, index, value);
  }
  /** Returns the host's answer for each row; an empty array if the host may not be asked. */
  values({ ask }, column, view) {
    let views = this.#columns.get(ask);
    if (!views) this.#columns.set(ask, (views = { newest: new Map(), before: new Map(), after: new Map() }));
    let values = views[view].get(column);
    if (!values) {
      this.#checkCurrent();
      values = this.#tables.every((table) => table.admits(column)) ? ask(column, view) : [];
      views[view].set(column, values);
    }
    return values;
  }
  /** Reads a value for which the host's `answer` does not suffice, or throws the column's error. */
  read(getter, name, view, index, answer) {
    const column = this.table(index).column(name, getter.type);
    if (!this.hasImage(index, view)) return null;
    if (!this.has(name, view, index)) {
      throw new ColumnError(`${column.title} is absent from the row's image; ask \`has\` first`);
    }
    if (column.isNullIfNone && answer === null) return null;
    const image = this.#image(index, view);
    const state = this.#state(image, column);
    if (state === NULL) return null;
    if (state === CHANGES) throw new ColumnError(`${column.title} has only its changes: the update was partial`);
    return getter.unpack(this.#bytes(image, column), column);
  }
  has(name, view, index) {
    const answer = this.values(HAS, name, view)[index];
    if (answer !== undefined) return answer;
    const column = this.table(index).find(name);
    if (!column || !this.hasImage(index, view)) return false;
    return this.#state(this.#image(index, view), column) !== ABSENT;
  }
  /** Whether a text column has this value in an image; false where it is absent. */
  isText(name, view, index, text) {
    const value = this.values(TEXT, name, view)[index];
    if (value !== null && value !== undefined) return value === text;
    this.table(index).column(name, TEXT.type);
    return this.has(name, view, index) && this.read(TEXT, name, view, index, value) === text;
  }
  /** Whether an update changed a column; false where it is absent from the after image. */
  changed(name, index) {
    const table = this.table(index);
    const column = table.column(name);
    if (this.operation(index) !== "update") return false;
    return this.#changedRows(table, column)?.has(this.rows[index]) ?? this.#differs(index, column);
  }
  /** Returns the rows in which an update changed a column; null if the host may not be asked. */
  #changedRows(table, column) {
    let rows = this.#changed.get(column);
    if (rows === undefined) {
      this.#checkCurrent();
      // Rows of this name may be of several versions of the table; the host rejects the batch if one lacks the column.
      const versions = this.#tables.filter((version) => version.name === table.name);
      const allOf = [{ column: column.name, view: "newest", test: changed, negated: false }];
      const rule = { tables: [table.name], inserts: false, updates: true, deletes: false, allOf };
      rows = versions.every((version) => version.find(column.name)?.isDeclared) ? new Set(query.select(rule)) : null;
      this.#changed.set(column, rows);
    }
    return rows;
  }
  #differs(index, column) {
    const [before, after] = [this.#image(index, "before"), this.#image(index, "after")];
    const state = this.#state(after, column);
    if (state === ABSENT || state !== this.#state(before, column)) return state !== ABSENT;
    const [old, now] = [this.#bytes(before, column), this.#bytes(after, column)];
    return old.length !== now.length || old.some((byte, at) => byte !== now[at]);
  }

  // The packed batch.

  /** Returns the offset of an image that the row has. */
  #image(index, view) {
    if (!this.#packed) {
      this.#checkCurrent();
      const { buffer, byteOffset, byteLength } = batchRows.rows();
      this.#packed = new DataView(buffer, byteOffset, byteLength);
    }
    const packed = this.#packed;
    const row = packed.getUint32(packed.getUint32(8, true) + 4 * this.rows[index], true);
    const image = row + 40;
    // An update has its before image first, other rows have one image.
    return view !== "before" && this.operation(index) === "update" ? image + packed.getUint32(image, true) : image;
  }
  #state(image, { index }) {
    return (this.#packed.getUint8(image + 4 + (index >> 2)) >> ((index & 3) * 2)) & 3;
  }
  #bytes(image, { index, table }) {
    const packed = this.#packed;
    const count = table.columns.length;
    const ends = image + 4 + 4 * Math.ceil(count / 16);
    const from = index === 0 ? 0 : packed.getUint32(ends + 4 * (index - 1), true);
    const to = packed.getUint32(ends + 4 * index, true);
    return new Uint8Array(packed.buffer, packed.byteOffset + ends + 4 * count + from, to - from);
  }
  #checkCurrent() {
    if (this !== current) throw new Error("a row was used after the call for its batch");
  }
}

/** The answers about the batch that is decided on; null between calls. */
let current = null;
/** The number of calls that were begun. */
let calls = 0;

/** Selections, by the one that they are part of and what was asked: they are mostly the same in each batch. */
const known = new Map();
const KNOWN_MAX = 256;
let made = 0;

/** The tables on which the transform decides; undefined: all. */
let wantedTables;

/**
 * A selection of rows: those of some tables and operations that meet some conditions. The host applies commands to them
 * without the transform; to iterate over a selection gives the rows' numbers.
 */
class Rows {
  #numbers;
  #numbersOf;
  #id = made++;
  constructor(tables, operations, allOf) {
    this.tables = tables; // undefined: all
    this.operations = operations;
    this.allOf = allOf;
    const [inserts, updates, deletes] = OPERATIONS.map((operation) => operations.includes(operation));
    this.rule = { tables: tables ?? [], inserts, updates, deletes, allOf };
    this.given = { tag: "that-match", val: this.rule };
  }
  /** Selects the rows of these for which all tests hold: `{ column: test }`. */
  where(tests) {
    const condition = ([column, { view = "newest", negated = false, ...test }]) => ({ column, view, test, negated });
    const entries = Object.entries(tests);
    const make = () => new Rows(this.tables, this.operations, [...this.allOf, ...entries.map(condition)]);
    return this.#known(JSON.stringify(entries), make);
  }
  /** Selects the rows of these with one of these operations: "insert", "update", "delete". */
  of(...operations) {
    const unknown = operations.find((operation) => !OPERATIONS.includes(operation));
    if (unknown !== undefined) throw new Error(`\`${unknown}\` is not an operation; use insert, update or delete`);
    const isOne = (operation) => operations.includes(operation);
    return this.#known(operations.join(), () => new Rows(this.tables, this.operations.filter(isOne), this.allOf));
  }
  /** Selects the rows of these that are of one of these tables: "shop.orders". */
  table(...names) {
    const unwanted = names.find((name) => wantedTables && !wantedTables.includes(name));
    if (unwanted !== undefined) throw new Error(`\`${unwanted}\` is not among the transform's \`tables\``);
    const tables = names.filter((name) => this.tables?.includes(name) ?? true);
    // A rule without tables is about all of them; one without operations matches nothing.
    const make = () => new Rows(tables, tables.length ? this.operations : [], this.allOf);
    return this.#known(`of ${JSON.stringify(names)}`, make);
  }
  #known(asked, make) {
    const key = `${this.#id} ${asked}`;
    let rows = known.get(key);
    if (!rows) {
      if (known.size === KNOWN_MAX) known.clear();
      known.set(key, (rows = make()));
    }
    return rows;
  }
  get numbers() {
    if (this.#numbersOf !== calls) {
      this.#numbers = this === ALL ? current.rows : Array.from(query.select(this.rule));
      this.#numbersOf = calls;
    }
    return this.#numbers;
  }
  get length() {
    return this.numbers.length;
  }
  [Symbol.iterator]() {
    return this.numbers[Symbol.iterator]();
  }

  // Lists of a column's values, one for each of these rows, in their order; null where the value is NULL or the row has
  // no such image. `view` is "newest" (after the change; of a deleted row, before it), "before" or "after". Each row's
  // table must have the column, of a type that the getter reads, and the image must contain it.

  texts(column, view = "newest") {
    return this.#list(TEXT, column, view);
  }
  /** Numbers. A value beyond 2^53 is an error. */
  integers(column, view = "newest") {
    return this.#list(INTEGER, column, view);
  }
  /** Bigints of signed 64 bits. */
  bigints(column, view = "newest") {
    return this.#list(BIGINT, column, view).map(toBigint);
  }
  /** Bigints of unsigned 64 bits. */
  unsigned(column, view = "newest") {
    return this.#list(UNSIGNED, column, view).map(toBigint);
  }
  floats(column, view = "newest") {
    return this.#list(FLOAT, column, view);
  }
  /** Uint8Arrays. */
  bytes(column, view = "newest") {
    return this.#list(BYTES, column, view);
  }
  /** Objects with the columns that the image contains; null where the row has no such image. */
  objects(view = "newest") {
    const texts = query.json(view);
    return this.#indexes.map((index) => {
      if (texts[index] === null || texts[index] === undefined) return null;
      const object = JSON.parse(texts[index]);
      for (const { name, type } of current.table(index).columns) {
        const mayBeRounded = type === "an integer" && typeof object[name] === "number";
        if (!mayBeRounded || Number.isSafeInteger(object[name])) continue;
        object[name] = current.read(INTEGER, name, view, index);
      }
      return object;
    });
  }
  #list(getter, column, view) {
    const indexes = this.#indexes;
    const values = indexes.length ? current.values(getter, column, view) : [];
    return indexes.map((index) => current.get(getter, column, view, index, values));
  }
  get #indexes() {
    return this === ALL ? Array.from(this.numbers.keys()) : this.numbers.map((number) => current.indexOf(number));
  }
}

const ALL = new Rows(undefined, OPERATIONS, []);

/** Returns rows as the host takes them: a selection, or an array of numbers. */
const given = (rows) => (rows instanceof Rows ? rows.given : { tag: "these", val: rows });

class Batch {
  #kept = [];
  #emits = [];

  /** All rows. */
  get all() {
    return ALL;
  }
  /** Selects the rows for which all tests hold: `{ column: test }`. */
  where(tests) {
    return ALL.where(tests);
  }
  /** Selects the rows with one of these operations: "insert", "update", "delete". */
  of(...operations) {
    return ALL.of(...operations);
  }
  /** Selects the rows of one of these tables: "shop.orders". */
  table(...names) {
    return ALL.table(...names);
  }
  /** Iterates over the rows. */
  *each() {
    const answers = current;
    const count = answers.rows.length;
    for (let index = 0; index < count; index++) yield new Row(answers, index);
  }
  /** The numbers of all rows. */
  get rows() {
    return current.rows;
  }
  /** The operation of each row: "insert", "update" or "delete". */
  get operations() {
    return current.rows.map((_, index) => current.operation(index));
  }

  // Lists of a column's values, one for each of `rows`: as those of a selection.

  texts(column, view) {
    return ALL.texts(column, view);
  }
  integers(column, view) {
    return ALL.integers(column, view);
  }
  bigints(column, view) {
    return ALL.bigints(column, view);
  }
  unsigned(column, view) {
    return ALL.unsigned(column, view);
  }
  floats(column, view) {
    return ALL.floats(column, view);
  }
  bytes(column, view) {
    return ALL.bytes(column, view);
  }
  objects(view) {
    return ALL.objects(view);
  }

  // Commands. `rows` is a selection or an array of rows' numbers.

  /** Keeps the rows; optionally sends them to a sink, in a group: a text, or texts and `part.column(name)`s. */
  keep(rows, { sink, group } = {}) {
    if (rows instanceof Rows) bulk.keep(given(rows));
    else this.#kept.push(...rows);
    if (sink !== undefined || group !== undefined) bulk.reroute(given(rows), sinkNumber(sink), groupParts(group ?? []));
  }
  /** Sets a column in the rows' after images: to a text (of a binary column: base64), a number, a bigint or null. */
  set(rows, column, value) {
    bulk.set(given(rows), column, valueOrNull(value));
  }
  /** Sets a column in both images, where it has a value. Use it to hide what must not get out. */
  replace(rows, column, value) {
    bulk.replace(given(rows), column, valueOrNull(value));
  }
  /** Makes a message of each row by a recipe. */
  write(recipe, rows, { sink } = {}) {
    bulk.write(given(rows), recipe, sinkNumber(sink));
  }
  /** Makes a message of the row of this number. A body that is not a text is written as JSON. */
  emit(row, body, { sink, group = "", deduplicationId = "", attributes } = {}) {
    this.#emits.push({
      row,
      sink: sinkNumber(sink),
      group,
      deduplicationId,
      body: typeof body === "string" ? body : json(body),
      attributes: attributes ? Object.entries(attributes) : [],
    });
  }
  /** Fails the row of this number: the plugin's `on_error` decides on it. */
  fail(row, message) {
    bulk.fail(row, message);
  }
  verdict() {
    if (this.#emits.length) bulk.emit(this.#emits);
    verdict.keep = this.#kept;
    return verdict;
  }
}

/** The verdict on a batch: all but the kept rows is told to the host by commands. */
const none = [];
const verdict = {
  keep: none,
  reroutes: none,
  edits: none,
  emits: none,
  attributes: none,
  writes: none,
  fails: none,
  arena: new Uint8Array(0),
};

/** Returns a value as JSON, with the characters that SQS refuses escaped. */
function json(value) {
  const text = JSON.stringify(value);
  const isRefused = text.includes("\ufffe") || text.includes("\uffff");
  return isRefused ? text.replace(/[\ufffe\uffff]/g, (c) => (c === "\ufffe" ? "\\ufffe" : "\\uffff")) : text;
}

/**
 * An image of a row. Its getters return null for NULL, and throw a `ColumnError` if the table has no such column, the
 * transform does not declare it, it is of another type, or it is absent from the image.
 */
class Image {
  // The fields are for this file only.
  constructor(answers, index, view) {
    this._answers = answers;
    this._index = index;
    this._view = view;
  }
  /** Reads a text, decimal, JSON, date, time, datetime, timestamp, enum or set column. */
  text(column) {
    return this._answers.get(TEXT, column, this._view, this._index);
  }
  /** Reads a decimal column, as text with all its digits. */
  decimal(column) {
    this._answers.table(this._index).column(column, "a decimal");
    return this.text(column);
  }
  /** Reads an integer, year or bit column as a number. A value beyond 2^53 is an error. */
  integer(column) {
    return this._answers.get(INTEGER, column, this._view, this._index);
  }
  /** Reads an integer, year or bit column as a bigint of signed 64 bits. */
  bigint(column) {
    return toBigint(this._answers.get(BIGINT, column, this._view, this._index));
  }
  /** Reads an integer, year or bit column as a bigint of unsigned 64 bits. */
  unsigned(column) {
    return toBigint(this._answers.get(UNSIGNED, column, this._view, this._index));
  }
  /** Reads a float or double column. */
  float(column) {
    return this._answers.get(FLOAT, column, this._view, this._index);
  }
  /** Reads a binary, geometry or vector column as a Uint8Array. */
  bytes(column) {
    return this._answers.get(BYTES, column, this._view, this._index);
  }
  /** Whether the table has the column and this image contains it. Never throws. */
  has(column) {
    return this._answers.has(column, this._view, this._index);
  }
}

/** A row. Its getters read the newest image: the after image, and of a deleted row the before image. */
class Row extends Image {
  constructor(answers, index) {
    super(answers, index, "newest");
  }
  /** The row's number in the batch. */
  get number() {
    return this._answers.rows[this._index];
  }
  /** The table's full name: "shop.orders". */
  get table() {
    return this._answers.table(this._index).name;
  }
  /** "insert", "update" or "delete". */
  get operation() {
    return this._answers.operation(this._index);
  }
  /** The before image, with the same getters; null for an insert. */
  get before() {
    return this.#image("before");
  }
  /** The after image, with the same getters; null for a delete. */
  get after() {
    return this.#image("after");
  }
  #image(view) {
    return this._answers.hasImage(this._index, view) ? new Image(this._answers, this._index, view) : null;
  }
  /** Whether an update changed the column; false for inserts and deletes, and if it is absent from the after image. */
  changed(column) {
    return this._answers.changed(column, this._index);
  }
  /** Whether the column has this text after the change, and had another value, or none, before it. */
  changedTo(column, text) {
    const answers = this._answers;
    if (!answers.isText(column, "after", this._index, text)) return false;
    return this.operation !== "update" || !answers.isText(column, "before", this._index, text);
  }
  /** Keeps the row; optionally sends it to a sink, in a group: a text, or texts and `part.column(name)`s. */
  keep(to) {
    this._answers.batch.keep([this.number], to);
  }
  /**
   * Sets a column in the after image. The value is null, a text for columns that are read as texts (base64 for those
   * read as bytes), an integer or a bigint for those read as integers, and a number for those read as floats.
   */
  set(column, value) {
    this.#checkValue(column, value);
    this._answers.batch.set([this.number], column, value);
  }
  /** Sets a column in both images, where it has a value. Use it to hide what must not get out. */
  replace(column, value) {
    this.#checkValue(column, value);
    this._answers.batch.replace([this.number], column, value);
  }
  #checkValue(name, value) {
    const column = this._answers.table(this._index).column(name);
    if (valueOrNull(value) === null) return;
    const isInteger = typeof value === "bigint" || Number.isSafeInteger(value);
    const type = typeof value === "string" ? "text" : isInteger ? "an integer" : "a float";
    const isTaken =
      type === column.type ||
      (column.type === "bytes" && type === "text") ||
      (column.type === "a float" && typeof value === "number");
    if (!isTaken) throw mismatch(column, type);
  }
  /** Makes a message of the row. A body that is not a text is written as JSON. */
  emit(body, to) {
    this._answers.batch.emit(this.number, body, to);
  }
  /** Fails the row: its messages and edits are discarded, and the plugin's `on_error` decides on it. */
  fail(message) {
    this._answers.batch.fail(this.number, message);
  }
}

/** Returns an error's message and, unless a column does not fit, its place in the author's code. */
function errorText(error) {
  if (error instanceof ColumnError || !(error instanceof Error)) return String(error?.message ?? error);
  const message = error.message || error.name;
  for (const line of String(error.stack).split("\n")) {
    const [, scope, file, number] = /^\s*at (.*) \((?:.*\/)?([^/:]+):(\d+)(?::\d+)?\)$/.exec(line) ?? [];
    if (file && file !== "rowmill.js") return `${message} (${file}:${number} in ${scope})`;
  }
  return message;
}

/**
 * Returns the module's exports. `tables` are the full names of the tables on whose rows the transform decides (by
 * default all), and `columns` the columns that it uses of them (by default all): an array of names for all these
 * tables, or an object with an array for each full name. The host does not decode the others. `setup` is called once
 * with the settings, `batch` for each batch, or `row` for each row.
 */
export function transform({ tables: wanted, columns: used = [], setup, batch, row }) {
  wantedTables = wanted;
  const named = Array.isArray(used) ? [] : Object.keys(used);
  const unwanted = named.find((name) => wanted && !wanted.includes(name));
  if (unwanted !== undefined) throw new Error(`\`columns\` has \`${unwanted}\`, which is not among \`tables\``);
  batch ??= (batch) => {
    for (const each of batch.each()) {
      try {
        row(each);
      } catch (error) {
        if (error instanceof Retry) throw error;
        each.fail(errorText(error));
      }
    }
  };
  return {
    configure(settings) {
      try {
        setup?.(JSON.parse(settings));
      } catch (error) {
        throw errorText(error);
      }
    },
    describe(table) {
      const name = fullName(table);
      if (wanted && !wanted.includes(name)) return { tag: "pass" };
      const columns = Array.isArray(used) ? used : (used[name] ?? []);
      tables.set(table.id, new Table(table, columns));
      if (!columns.length) return { tag: "all" };
      return { tag: "want", val: { columns, before: true, inserts: true, updates: true, deletes: true } };
    },
    process() {
      const work = new Batch();
      current = new Answers(work);
      calls++;
      try {
        batch(work);
        return work.verdict();
      } catch (error) {
        throw error instanceof Retry ? { tag: "retry", val: error.message } : { tag: "reject", val: errorText(error) };
      } finally {
        current = null;
      }
    },
  };
}
