// The Rowmill SDK for transforms in JavaScript, in one file.
//
//   import { recipe, transform } from "./rowmill.js";
//
//   const paid = recipe({ body: { event: "order_paid", id: "{id}" }, group: "customer-{customer}" });
//
//   export const { configure, describe, process } = transform({
//     tables: ["shop.orders"],
//     batch(batch) {
//       batch.write(paid, batch.where("changed_to(status, 'paid') and total >= 100"));
//     },
//   });
//
// `batch` is called for each batch. The host selects rows by conditions, applies commands to all of them at once, and
// writes messages by recipes (docs/expressions.md), so that a row costs little although JavaScript is interpreted. A
// transform that must read each row has `row` instead, which is called for each row and takes a few microseconds:
//
//     row(row) {
//       if (row.changedTo("status", "paid")) row.keep();
//     },
//
// A row that is neither kept nor failed is dropped; rows of other tables pass. An exception in `row` is a failure of
// that row: its messages and edits are discarded, the plugin's `on_error` decides on it, and the other rows are not
// affected. An exception in `batch` rejects the batch, and the engine then tries each of its rows alone. Errors have
// the calls that led to the exception, by file and line. `throw new Retry("...")` is a transient failure of the batch.
//
// `sinks: ["warehouse"]` beside `tables` declares the sinks that the transform uses: one that the configuration lacks
// is then an error at the start and of `rowmill check`; otherwise, of the first row that goes to it.
//
// Modules are evaluated when the transform is built; the host is there from `setup` on. `console` writes to the log,
// and `Date` has the time if the clock is granted. `Math.random` gives the same numbers in each instance.
//
// To read a column is an error if the table lacks it, the transform does not declare it, the getter is of another type,
// or the row's image does not contain it; NULL is `null`. Names of columns are compared without case.
//
//   npx componentize-qjs --sync --stub-wasi --wit wit --world transform --js NAME.js -o NAME.wasm
import batchRows from "rowmill:transform/batch@0.1.0";
import host from "rowmill:transform/host@0.1.0";
import outcome from "rowmill:transform/outcome@0.1.0";
import query from "rowmill:transform/query@0.1.0";

/** A transient failure, thrown by `row` or `batch`: the engine calls the transform again with the same batch. */
export class Retry extends Error {}

/** The error of a getter or an edit that does not fit the column: the row's failure, with this message. */
export class ColumnError extends Error {}

// The host traps, without a place in the author's code, at a value of another type than it takes.

/** Returns a value as a person reads it. */
function shown(value) {
  if (typeof value !== "object" || value instanceof Error) return String(value);
  return JSON.stringify(value, (_, part) => (typeof part === "bigint" ? String(part) : part));
}
function asText(value, name) {
  if (typeof value === "string") return value;
  throw new Error(`\`${name}\` must be a text, not ${shown(value)}`);
}
function asOneOf(values, value) {
  if (values.includes(value)) return value;
  throw new Error(`\`${shown(value)}\` is none of ${values.join(", ")}`);
}
function asIndex(value, name) {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`\`${name}\` must be an integer from 0, not ${shown(value)}`);
}
function checkNoOthers(others) {
  for (const name in others) throw new Error(`there is no option \`${name}\``);
}

/** Returns a value as a literal for a condition: `total >= ${quote(limit)}`. Bytes become base64. */
export function quote(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (value instanceof Uint8Array) return `'${value.toBase64()}'`;
  const text = valueText(value);
  if (typeof value === "string") return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
  if (!text.includes("e")) return text;
  // Conditions have no numbers with exponents.
  const [digits, exponent] = text.split("e");
  return exponent > 0 ? String(BigInt(value)) : value.toFixed((digits.split(".")[1] ?? "").length - exponent);
}

/** Returns a value of a column as the host parses it. */
function valueText(value) {
  if (typeof value === "string") return value;
  if (typeof value === "bigint" || Number.isFinite(value)) return String(value);
  throw new Error(`${value} is not a column's value; use a text, a number or a bigint`);
}
const valueOrNull = (value) => (value === null ? null : valueText(value));

/** Whether the transform runs, and is not being built. */
let isRunning = false;
/** The recipes to add when the transform starts. */
const recipes = [];
/** The host's number for a text that is not a recipe. The call has failed then, as will the next one with that text. */
const NO_RECIPE = 2 ** 32 - 1;

function recipeNumber(recipe) {
  if (recipe.number !== undefined) return recipe.number;
  if (recipe.text === undefined) throw new Error("`write` takes what `recipe` returned");
  const number = host.addRecipe(recipe.text) >>> 0; // the runtime has a u32 from 2^31 as a negative number
  if (number !== NO_RECIPE) recipe.number = number;
  return number;
}

/**
 * Makes a recipe, by which the host writes messages; its strings have placeholders: `"customer-{customer}"`. Make each
 * one once, not for each batch. The names of docs/expressions.md (`for_each`) may be used, too, as in settings.
 */
export function recipe({ deduplicationId, forEach, ...description }) {
  const made = { text: json({ deduplication_id: deduplicationId, for_each: forEach, ...description }) };
  if (isRunning) recipeNumber(made);
  else recipes.push(made);
  return made;
}

/** A group with placeholders, for `keep`: `template("customer-{customer}")`. */
export const template = (group) => ({ tag: "template", val: asText(group, "template") });

const LEVELS = ["error", "warn", "info", "debug", "trace"];
function running() {
  if (isRunning) return host;
  throw new Error("modules are evaluated when the transform is built; call the host in `setup` or later");
}
export const log = (message, level = "info") => running().log(asOneOf(LEVELS, level), String(message));
export const count = (counter, n = 1) => running().count(asText(counter, "counter"), asIndex(n, "n"));
/** Returns the time in microseconds since 1970, or null if the clock is not granted. */
export const now = () => running().now() ?? null;
export const env = (name) => running().env(asText(name, "name")) ?? null;

// The runtime has no console, and its clock is a trap.

const printer = (level) => (...values) => log(values.map(shown).join(" "), level);
globalThis.console ??= {
  log: printer("info"),
  debug: printer("debug"),
  info: printer("info"),
  warn: printer("warn"),
  error: printer("error"),
};

const timeOfBuild = Date.now;
Date.now = () => {
  if (!isRunning) return timeOfBuild();
  const time = now();
  if (time !== null) return Math.floor(time / 1000);
  throw new Error("the clock is not granted; set `clock = true` under [grant] in the plugin's .toml");
};
globalThis.Date = new Proxy(Date, {
  construct: (date, values, target) => Reflect.construct(date, values.length ? values : [date.now()], target),
  apply: (date) => String(new date(date.now())),
});
Date.prototype.constructor = Date;

const sinkNumbers = new Map();
function sinkNumber(name, isDeclared = false) {
  if (name === undefined) return null;
  if (!sinkNumbers.has(name)) {
    const number = host.sink(asText(name, "sink"));
    if (number === null || number === undefined) {
      const declared = isDeclared ? ", which the transform declares" : "";
      throw new Error(`the configuration has no sink \`${name}\`${declared}`);
    }
    sinkNumbers.set(name, number);
  }
  return sinkNumbers.get(name);
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

/** Returns the condition of a table's rows. */
function tableCondition(written) {
  const parts = written.match(/`(?:[^`]|``)+`|[^`.]+/g) ?? [];
  if (parts.length !== 2 || parts.join(".") !== written) {
    throw new Error(`\`${written}\` is not a table's full name, such as shop.orders`);
  }
  const [schema, name] = parts.map((part) => (part[0] === "`" ? part.slice(1, -1).replaceAll("``", "`") : part));
  const full = fullName({ schema, name });
  if (written !== full) throw new Error(`\`${written}\` has needless backticks: write ${full}`);
  return `schema() = ${quote(schema)} and table() = ${quote(name)}`;
}

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

const OPERATIONS = ["insert", "update", "delete", "read"]; // by their code
const VIEWS = ["newest", "before", "after"];

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
    if (view === "newest") return true;
    const operation = this.operation(index);
    return operation === "update" || (operation === "delete") === (view === "before");
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
      asText(column, "column");
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
      const mayAsk = versions.every((version) => version.find(column.name)?.isDeclared);
      const name = column.name.replaceAll("`", "``");
      const condition = `${tableCondition(table.name)} and op() = 'u' and changed(\`${name}\`)`;
      rows = mayAsk ? new Set(query.select(condition)) : null;
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
let rowsMade = 0;

/** The tables on which the transform decides; undefined: all. */
let wantedTables;

/** Whether the transform decides on the table of this full name. */
function isWanted(table) {
  const isMeant = (name) => name === table || (name.endsWith(".*") && table.startsWith(name.slice(0, -1)));
  return !wantedTables || wantedTables.some(isMeant);
}

/** Rows that a condition selects. The host applies commands to them; to iterate over them gives their numbers. */
class Rows {
  #numbers;
  #numbersOf;
  #id = rowsMade++;
  #scope;
  #conditions;
  /** The conditions must all hold. Those of the scope, on tables and operations, are the first. */
  constructor(scope, conditions) {
    this.#scope = scope;
    this.#conditions = conditions;
    this.condition = [...scope, ...conditions].join(" and ") || "true";
    this.given = { tag: "that-match", val: this.condition };
  }
  /** Selects the rows of these for which a condition holds: "status = 'paid'". */
  where(condition) {
    const part = `(${condition})`;
    return this.#known(part, () => new Rows(this.#scope, [...this.#conditions, part]));
  }
  /** Selects the rows of these with one of these operations: "insert", "update", "delete", "read" (by a snapshot). */
  of(...operations) {
    return this.#within(`of ${operations}`, () => {
      operations.forEach((operation) => asOneOf(OPERATIONS, operation));
      const letters = operations.map((operation) => `'${"cudr"[OPERATIONS.indexOf(operation)]}'`);
      return letters.length ? `op() in (${letters})` : "false";
    });
  }
  /** Selects the rows of these that are of one of these tables: "shop.orders". */
  table(...names) {
    return this.#within(`table ${JSON.stringify(names)}`, () => {
      const unwanted = names.find((name) => !isWanted(name));
      if (unwanted !== undefined) throw new Error(`\`${unwanted}\` is not among the transform's \`tables\``);
      return names.length ? `(${names.map(tableCondition).join(" or ")})` : "false";
    });
  }
  #within(asked, makeCondition) {
    return this.#known(asked, () => new Rows([...this.#scope, makeCondition()], this.#conditions));
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
      this.#numbers = this === ALL ? current.rows : Array.from(query.select(this.condition));
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
    const texts = query.json(asOneOf(VIEWS, view));
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
    asOneOf(VIEWS, view);
    const indexes = this.#indexes;
    const values = indexes.length ? current.values(getter, column, view) : [];
    return indexes.map((index) => current.get(getter, column, view, index, values));
  }
  get #indexes() {
    return this === ALL ? Array.from(this.numbers.keys()) : this.numbers.map((number) => current.indexOf(number));
  }
}

const ALL = new Rows([], []);

/** Returns rows as the host takes them: a selection, or an array of numbers. */
function given(rows) {
  if (rows instanceof Rows) return rows.given;
  if (!Array.isArray(rows)) throw new Error("rows must be a selection or an array of their numbers");
  for (const number of rows) asIndex(number, "row");
  return { tag: "these", val: rows };
}

class Batch {
  #kept = [];
  #emits = [];

  /** All rows. */
  get all() {
    return ALL;
  }
  /** Selects the rows for which a condition holds: "status = 'paid'". */
  where(condition) {
    return ALL.where(condition);
  }
  /** Selects the rows with one of these operations: "insert", "update", "delete", "read" (by a snapshot). */
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
  /** The operation of each row: "insert", "update", "delete" or "read" (by a snapshot). */
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

  /** Keeps the rows; optionally sends them to a sink, in a group: a text or a `template`. */
  keep(rows, to) {
    const numbers = given(rows);
    if (rows instanceof Rows) outcome.keep(numbers);
    else this.#kept.push(...rows);
    if (to === undefined) return;
    const { sink, group, ...others } = to;
    checkNoOthers(others);
    const isTemplate = group === undefined || group?.tag === "template";
    const variant = isTemplate ? (group ?? null) : { tag: "text", val: asText(group, "group") };
    outcome.reroute(numbers, sinkNumber(sink), variant);
  }
  /** Sets a column in the rows' after images: to a text (of a binary column: base64), a number, a bigint or null. */
  set(rows, column, value) {
    outcome.set(given(rows), asText(column, "column"), valueOrNull(value));
  }
  /** Sets a column in both images, where it has a value. Use it to hide what must not get out. */
  replace(rows, column, value) {
    outcome.replace(given(rows), asText(column, "column"), valueOrNull(value));
  }
  /** Makes a message of each row by a recipe. */
  write(recipe, rows, { sink, ...others } = {}) {
    checkNoOthers(others);
    outcome.write(given(rows), recipeNumber(recipe), sinkNumber(sink));
  }
  /** Makes a message of the row of this number. A body that is not a text is written as JSON. */
  emit(row, body, { sink, group = "", deduplicationId = "", attributes, ...others } = {}) {
    checkNoOthers(others);
    this.#emits.push({
      row: asIndex(row, "row"),
      sink: sinkNumber(sink),
      group: asText(group, "group"),
      deduplicationId: asText(deduplicationId, "deduplicationId"),
      body: typeof body === "string" ? body : json(body),
      attributes: attributes ? Object.entries(attributes).map(([name, value]) => [name, asText(value, name)]) : [],
    });
  }
  /** Fails the row of this number: the plugin's `on_error` decides on it. */
  fail(row, message) {
    outcome.fail(asIndex(row, "row"), String(message));
  }
  /** Tells the host what was collected of single rows. */
  finish() {
    if (this.#emits.length) outcome.emit(this.#emits);
    if (this.#kept.length) outcome.keep({ tag: "these", val: this.#kept });
  }
}

/** Returns a value as JSON, with the characters that SQS refuses escaped. */
function json(value) {
  const text = JSON.stringify(value);
  if (text === undefined) throw new Error(`a message's body must be JSON, not ${shown(value)}`);
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
  /** "insert", "update", "delete" or "read" (by a snapshot). */
  get operation() {
    return this._answers.operation(this._index);
  }
  /** The before image, with the same getters; null for an insert and a read. */
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
  /** Whether an update changed the column; false for other operations, and if it is absent from the after image. */
  changed(column) {
    return this._answers.changed(column, this._index);
  }
  /** Whether the column has this text after the change, and had another value, or none, before it; false for a read. */
  changedTo(column, value) {
    const answers = this._answers;
    if (!answers.isText(column, "after", this._index, asText(value, "value"))) return false;
    if (this.operation === "read") return false;
    return this.operation !== "update" || !answers.isText(column, "before", this._index, value);
  }
  /** Keeps the row; optionally sends it to a sink, in a group: a text or a `template`. */
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

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Decodes a segment of a source map: numbers of digits of 5 bits, the lowest first; the lowest bit is the sign. */
function decoded(segment) {
  const numbers = [];
  let [number, shift] = [0, 0];
  for (const character of segment) {
    const digit = BASE64.indexOf(character);
    number += (digit & 31) << shift;
    shift += 5;
    if (digit & 32) continue;
    numbers.push(number & 1 ? -(number >> 1) : number >> 1);
    [number, shift] = [0, 0];
  }
  return numbers;
}

/** Returns where a place in a file is in the source, if the build left the file's source map (ECMA-426). */
function sourcePlace(file, line, column) {
  const map = globalThis.sourceMaps?.[file];
  let place = `${file}:${line}`;
  if (!map) return place;
  let [source, sourceLine] = [0, 0];
  for (const [index, segments] of map.mappings.split(";", line).entries()) {
    let from = 1;
    for (const segment of segments.split(",")) {
      const [columns = 0, sources = 0, lines = 0] = decoded(segment);
      from += columns;
      source += sources;
      sourceLine += lines;
      if (index === line - 1 && from <= column) place = `${map.sources[source]}:${sourceLine + 1}`;
    }
  }
  return place;
}

/** Calls in the author's code by the stack of an error: stacks are mostly the same for each row. */
const knownCalls = new Map();

/** Returns the calls in the author's code, the innermost first: the function and the place, "app.js:12". */
function authorCalls(stack) {
  let known = knownCalls.get(stack);
  if (!known) {
    const frames = Array.from(stack.matchAll(/^ *at (.*) \(\/?([^<>()]+):(\d+):(\d+)\)$/gm));
    const places = frames.filter(([, , file]) => file !== "rowmill.js");
    known = places.map(([, scope, file, line, column]) => [scope, sourcePlace(file, Number(line), Number(column))]);
    if (knownCalls.size === KNOWN_MAX) knownCalls.clear();
    knownCalls.set(stack, known);
  }
  return known;
}

/** Returns an error's message and, unless a column does not fit, its place in the author's code and the calls to it. */
function errorText(error) {
  if (error instanceof ColumnError || !(error instanceof Error)) return String(error?.message ?? error);
  const message = String(error.message || error.name);
  const calls = authorCalls(String(error.stack));
  if (!calls.length) return message;
  const [[scope, place]] = calls;
  const first = message.replace(/\n|$/, (end) => ` (${place} in ${scope})${end}`);
  return [first, ...calls.map(([scope, place]) => `  at ${scope} (${place})`)].join("\n");
}

/** Throws if one of the author's functions is asynchronous: the host does not wait for it, and its error gets lost. */
function checkFinished(name, result) {
  if (result instanceof Promise) throw new Error(`\`${name}\` returns a promise; it must not be asynchronous`);
}

function checkNames(member, names) {
  const areNames = Array.isArray(names) && names.every((name) => typeof name === "string");
  if (!areNames) throw new Error(`\`${member}\` must be an array of names, not ${shown(names)}`);
}

/**
 * Returns the module's exports. `tables` are the full names of the tables on whose rows the transform decides (`shop.*`:
 * all of the schema; by default all), and `columns` the columns that it uses of them (by default all): an array of names for all these
 * tables, or an object with an array for each full name. The host does not decode the others. `sinks` are the sinks
 * that the transform uses: each must be in the configuration. `setup` is called once with the settings, `batch` for
 * each batch, or `row` for each row.
 */
export function transform({ tables: wanted, columns: used = [], sinks = [], setup, batch, row, ...others }) {
  checkNoOthers(others);
  if (!batch && !row) throw new Error("`transform` needs a function `batch` or `row`");
  checkNames("sinks", sinks);
  checkNames("tables", wanted ?? []);
  wanted?.forEach(tableCondition);
  wantedTables = wanted;
  const isByTable = typeof used === "object" && !Array.isArray(used);
  const named = isByTable ? Object.keys(used) : [];
  named.forEach(tableCondition);
  for (const names of isByTable ? Object.values(used) : [used]) checkNames("columns", names);
  const unwanted = named.find((name) => !isWanted(name));
  if (unwanted !== undefined) throw new Error(`\`columns\` has \`${unwanted}\`, which is not among \`tables\``);
  const decideRowByRow = (work) => {
    for (const each of work.each()) {
      try {
        const result = row(each);
        if (result !== undefined) checkFinished("row", result);
      } catch (error) {
        if (error instanceof Retry) throw error;
        each.fail(errorText(error));
      }
    }
  };
  return {
    configure(settings) {
      isRunning = true;
      try {
        sinks.forEach((name) => sinkNumber(name, true));
        recipes.forEach(recipeNumber);
        checkFinished("setup", setup?.(JSON.parse(settings)));
      } catch (error) {
        throw errorText(error);
      }
    },
    describe(table) {
      const name = fullName(table);
      if (!isWanted(name)) return { tag: "pass" };
      const columns = isByTable ? (used[name] ?? []) : used;
      tables.set(table.id, new Table(table, columns));
      if (!columns.length) return { tag: "all" };
      return { tag: "want", val: { columns, before: true, inserts: true, updates: true, deletes: true } };
    },
    process() {
      const work = new Batch();
      current = new Answers(work);
      calls++;
      try {
        if (batch) checkFinished("batch", batch(work));
        else decideRowByRow(work);
        work.finish();
      } catch (error) {
        throw error instanceof Retry ? { tag: "retry", val: error.message } : { tag: "reject", val: errorText(error) };
      } finally {
        current = null;
      }
    },
  };
}
