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
// A batch is asked about as a whole, the engine does to rows what it's told of all of them, and it writes messages
// as a recipe says: so a row costs next to nothing, though JavaScript is interpreted. Where a row must be looked at,
// `row` instead of `batch` is called for each, at a microsecond or so:
//
//     row(row) {
//       if (row.changedTo("status", "paid")) row.keep();
//     },
//
// A row that is neither kept nor failed is dropped; rows of other tables pass.
//
//   npx componentize-qjs --sync --wit wit --js NAME.js -o NAME.wasm
//
// Integers beyond 2^53 lose digits as numbers: take them as texts.
import bulk from "rowmill:transform/bulk@0.1.0";
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
  return host.addRecipe({
    fields: Object.entries(fields).map(([name, value]) => ({ name, value })),
    group: groupParts(group),
  });
}

function groupParts(group) {
  const groupPart = (part) => (typeof part === "string" ? { tag: "text", val: part } : { tag: "column", val: part.val });
  return [group].flat().filter((part) => part !== "").map(groupPart);
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

/** The batch that is decided on. */
let current;

/** Rows, by those of which they are some and what was asked: a batch is asked for the same as the one before, mostly. */
const known = new Map();
const KNOWN_MAX = 256;
let made = 0;

/**
 * Rows that the engine picks: those of some operations for which some tests hold. What is done with them it does by
 * itself; who looks at them gets their numbers.
 */
class Rows {
  #picked;
  #pickedOf;
  #id = made++;
  constructor(operations, allOf) {
    this.operations = operations;
    this.allOf = allOf;
    const is = (operation) => operations.includes(operation);
    this.rule = { inserts: is("insert"), updates: is("update"), deletes: is("delete"), allOf };
    this.given = { tag: "that-match", val: this.rule };
  }
  /** Those of these for which all of these hold too: `{ column: test }`. */
  where(tests) {
    const condition = ([column, { view = "newest", negated = false, ...test }]) => ({ column, view, test, negated });
    const make = () => new Rows(this.operations, [...this.allOf, ...Object.entries(tests).map(condition)]);
    return this.#known(JSON.stringify(tests), make);
  }
  /** Those of these operations: "insert", "update", "delete". */
  of(...operations) {
    const isOne = (operation) => operations.includes(operation);
    return this.#known(operations.join(), () => new Rows(this.operations.filter(isOne), this.allOf));
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
    if (this.#pickedOf !== current) [this.#picked, this.#pickedOf] = [Array.from(bulk.pick(this.rule)), current];
    return this.#picked;
  }
  get length() {
    return this.numbers.length;
  }
  [Symbol.iterator]() {
    return this.numbers[Symbol.iterator]();
  }
}

const ALL = new Rows(["insert", "update", "delete"], []);

/** As the world has it. */
const given = (rows) => (rows instanceof Rows ? rows.given : { tag: "these", val: rows });
const valueText = (value) => (value === null ? null : String(value));

class Batch {
  #kept = [];
  #emits = [];
  #rows;
  #operations;
  #columns;

  /** All rows. */
  get all() {
    return ALL;
  }
  /** The rows for which all of these hold: `{ column: test }`. */
  where(tests) {
    return ALL.where(tests);
  }
  /** The rows of these operations: "insert", "update", "delete". */
  of(...operations) {
    return ALL.of(...operations);
  }
  /** Each row, to be looked at. */
  *each() {
    for (let index = 0; index < this.rows.length; index++) yield new Row(this, this.rows[index], index);
  }
  /** The numbers of all rows. */
  get rows() {
    return (this.#rows ??= Array.from(query.asked()));
  }
  /** For each row of `rows`: "insert", "update" or "delete". */
  get operations() {
    return (this.#operations ??= Array.from(query.operations(), (number) => [, "insert", "update", "delete"][number]));
  }
  /** A column of each row of `rows`; null where it is NULL or absent. `view`: newest, before or after. */
  texts(column, view = "newest") {
    return this.#column(column, view, query.texts);
  }
  integers(column, view = "newest") {
    return this.#column(column, view, query.integers);
  }
  floats(column, view = "newest") {
    return this.#column(column, view, query.floats);
  }
  /** Each row of `rows` as an object. */
  objects(view = "newest") {
    return query.json(view).map((text) => (text === null ? null : JSON.parse(text)));
  }
  /** Asked for once. */
  #column(column, view, values) {
    this.#columns ??= new Map();
    let ofView = this.#columns.get(values);
    if (!ofView) this.#columns.set(values, (ofView = { newest: new Map(), before: new Map(), after: new Map() }));
    let known = ofView[view].get(column);
    if (!known) ofView[view].set(column, (known = values(column, view)));
    return known;
  }

  // `rows` are what `all`, `where` and `of` give, or an array of numbers.

  /** These rows stay. They may go to a sink, in a group: a text, or texts and `part.column(name)`s. */
  keep(rows, { sink, group } = {}) {
    if (rows instanceof Rows) bulk.keep(given(rows));
    else this.#kept.push(...rows);
    if (sink !== undefined || group !== undefined) bulk.reroute(given(rows), sinkNumber(sink), groupParts(group ?? []));
  }
  /** A column of these rows gets another value in the row as it is now: text, a number, or null. */
  set(rows, column, value) {
    bulk.set(given(rows), column, valueText(value));
  }
  /**
   * A column of these rows gets another value wherever it has one, in the row as it is now and as it was: what must not
   * get out is hidden by this.
   */
  replace(rows, column, value) {
    bulk.replace(given(rows), column, valueText(value));
  }
  /** The engine makes a message of each of these rows, as the recipe says. */
  write(recipe, rows, { sink } = {}) {
    bulk.write(given(rows), recipe, sinkNumber(sink));
  }
  /** A message is made of the row. */
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
  /** The row can't be processed; the plugin's `on_error` says what becomes of it. */
  fail(row, message) {
    bulk.fail(row, message);
  }
  verdict() {
    if (this.#emits.length) bulk.emit(this.#emits);
    verdict.keep = this.#kept;
    return verdict;
  }
}

/** All else is said to `bulk`. */
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

/** What SQS refuses is escaped. */
function json(value) {
  const text = JSON.stringify(value);
  const isRefused = text.includes("\ufffe") || text.includes("\uffff");
  return isRefused ? text.replace(/[\ufffe\uffff]/g, (c) => (c === "\ufffe" ? "\\ufffe" : "\\uffff")) : text;
}

/** A row to be looked at: what is asked of one is got for all of the batch at once. */
class Row {
  #batch;
  #index;
  constructor(batch, number, index) {
    this.#batch = batch;
    this.number = number;
    this.#index = index;
  }
  /** "insert", "update" or "delete". */
  get operation() {
    return this.#batch.operations[this.#index];
  }
  /** A column as text; null where it is NULL or absent. `view`: newest, before or after. */
  text(column, view = "newest") {
    return this.#batch.texts(column, view)[this.#index];
  }
  integer(column, view = "newest") {
    return this.#batch.integers(column, view)[this.#index];
  }
  float(column, view = "newest") {
    return this.#batch.floats(column, view)[this.#index];
  }
  /** Whether the column is this now and wasn't before. */
  changedTo(column, value) {
    return this.text(column, "after") === value && this.text(column, "before") !== value;
  }
  keep(to) {
    this.#batch.keep([this.number], to);
  }
  set(column, value) {
    this.#batch.set([this.number], column, value);
  }
  /** As `set`, wherever the column has a value, in the row as it is now and as it was. */
  replace(column, value) {
    this.#batch.replace([this.number], column, value);
  }
  emit(body, to) {
    this.#batch.emit(this.number, body, to);
  }
  fail(message) {
    this.#batch.fail(this.number, message);
  }
}

/** A name as it is written beside a dot: within backticks where it has one itself. */
const quoted = (name) => (/[.`]/.test(name) ? "`" + name.replaceAll("`", "``") + "`" : name);

/**
 * What the module exports. `tables` are those whose rows it decides on (by default all), and `columns` those that it uses
 * of them: the engine needn't decode the others to ask about a row (by default it uses all). `setup` is called once with
 * the settings, `batch` for each batch, or `row` for each row.
 */
export function transform({ tables: wanted, columns: used, setup, batch, row }) {
  batch ??= (batch) => {
    for (const each of batch.each()) row(each);
  };
  return {
    configure(settings) {
      try {
        setup?.(JSON.parse(settings));
      } catch (error) {
        throw String(error?.message ?? error);
      }
    },
    describe(table) {
      const isWanted = !wanted || wanted.includes(`${quoted(table.schema)}.${quoted(table.name)}`);
      if (!isWanted) return { tag: "pass" };
      const columns = table.columns.flatMap(({ name }, index) => (used?.includes(name) ? [index] : []));
      // Without columns it would be all.
      if (!columns.length) return { tag: "all" };
      return { tag: "want", val: { columns: Uint32Array.from(columns), before: true, inserts: true, updates: true, deletes: true } };
    },
    process(rows) {
      const work = (current = new Batch());
      try {
        batch(work);
      } catch (error) {
        throw { tag: "reject", val: String(error?.message ?? error) };
      }
      return work.verdict();
    },
  };
}
