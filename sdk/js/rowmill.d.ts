// The types of rowmill.js.

export type View = "newest" | "before" | "after";
/** "read": a row that a snapshot read, which has an after image, as an insert has. */
export type Operation = "insert" | "update" | "delete" | "read";
export type Value = string | number | bigint | null;

/** A transient failure, thrown by `row` or `batch`: the engine calls the transform again with the same batch. */
export class Retry extends Error {}

/** The error of a getter or an edit that does not fit the column: the row's failure, with this message. */
export class ColumnError extends Error {}

/**
 * Returns a value as a literal for a condition, with quotes where it needs them: `"status = " + quote(status)`. Bytes
 * become base64.
 */
export function quote(value: Value | boolean | Uint8Array): string;

/** Messages that the host writes: docs/expressions.md. Their strings have placeholders: "{price * quantity}". */
export interface RecipeDescription {
  /** The message's body: any value that JSON has. The braces of other texts are doubled. */
  body: unknown;
  /** The message group; by default the row's own. */
  group?: string;
  /** By default it follows from the row's place in the binlog. */
  deduplicationId?: string;
  attributes?: Record<string, string>;
  /** An expression with a JSON array, for a message of each of its items: "doc->'$.lines'". */
  forEach?: string;
}
export interface Recipe {
  readonly recipe: unique symbol;
}
/** Makes a recipe, which `batch.write` takes. Make each one once, in the module, in `setup` or later. */
export function recipe(description: RecipeDescription): Recipe;

export interface Template {
  readonly template: unique symbol;
}
/** A message group with placeholders, for `keep`: `template("customer-{customer}")`. */
export function template(text: string): Template;

export function log(message: unknown, level?: "error" | "warn" | "info" | "debug" | "trace"): void;
export function count(counter: string, n?: number): void;
/** Returns the time in microseconds since 1970, or null if the clock is not granted. */
export function now(): number | null;
export function env(name: string): string | null;

/**
 * Lists of a column's values, one for each row, in order; null where the value is NULL or the row has no such image.
 * Each row's table must have the column, of a type that the getter reads, and the image must contain it. `view` is
 * "newest" by default: after the change; of a deleted row, before it.
 */
export interface Lists {
  texts(column: string, view?: View): (string | null)[];
  /** A value beyond 2^53 is an error. */
  integers(column: string, view?: View): (number | null)[];
  /** Signed 64 bits. */
  bigints(column: string, view?: View): (bigint | null)[];
  /** Unsigned 64 bits. */
  unsigned(column: string, view?: View): (bigint | null)[];
  floats(column: string, view?: View): (number | null)[];
  bytes(column: string, view?: View): (Uint8Array | null)[];
  /** Objects with the columns that the image contains. */
  objects(view?: View): (Record<string, unknown> | null)[];
}

/** Selects rows of these. */
export interface Selectable {
  /**
   * The rows for which a condition holds (docs/expressions.md): "changed_to(status, 'paid')". A table in the batch that
   * lacks a column of it is an error of the batch: `table` leaves out other tables.
   */
  where(condition: string): Rows;
  /** The rows with one of these operations. */
  of(...operations: Operation[]): Rows;
  /** The rows of one of these tables: "shop.orders". */
  table(...names: string[]): Rows;
}

/** A selection of rows; to iterate over it gives the rows' numbers. */
export interface Rows extends Iterable<number>, Selectable, Lists {
  readonly length: number;
}

export interface KeepTo {
  sink?: string;
  /** The same text for all rows, or a template. */
  group?: string | Template;
}
export interface EmitTo {
  sink?: string;
  group?: string;
  deduplicationId?: string;
  attributes?: Record<string, string>;
}

/** A batch of rows. The lists have one item for each of `rows`. */
export interface Batch extends Selectable, Lists {
  readonly all: Rows;
  /** The numbers of all rows. */
  readonly rows: number[];
  /** The operation of each row. */
  readonly operations: Operation[];
  each(): Iterable<Row>;
  /** Keeps the rows; optionally sends them to a sink, in a group. */
  keep(rows: Rows | number[], to?: KeepTo): void;
  /** Sets a column in the rows' after images; a value of a binary column is base64. */
  set(rows: Rows | number[], column: string, value: Value): void;
  /** Sets a column in both images, where it has a value. Use it to hide what must not get out. */
  replace(rows: Rows | number[], column: string, value: Value): void;
  /** Makes a message of each row by a recipe. */
  write(recipe: Recipe, rows: Rows | number[], to?: { sink?: string }): void;
  /** Makes a message of a row. A body that is not a text is written as JSON. */
  emit(row: number, body: unknown, to?: EmitTo): void;
  /** Fails a row: the plugin's `on_error` decides on it. */
  fail(row: number, message: string): void;
}

/**
 * An image of a row. The getters return null for NULL, and throw a `ColumnError` if the table has no such column, the
 * transform does not declare it, it is of another type, or it is absent from the image.
 */
export interface Image {
  /** Reads a text, decimal, JSON, date, time, datetime, timestamp, enum or set column. */
  text(column: string): string | null;
  /** Reads a decimal column, as text with all its digits. */
  decimal(column: string): string | null;
  /** Reads an integer, year or bit column. A value beyond 2^53 is an error. */
  integer(column: string): number | null;
  /** Reads an integer, year or bit column of signed 64 bits. */
  bigint(column: string): bigint | null;
  /** Reads an integer, year or bit column of unsigned 64 bits. */
  unsigned(column: string): bigint | null;
  /** Reads a float or double column. */
  float(column: string): number | null;
  /** Reads a binary, geometry or vector column. */
  bytes(column: string): Uint8Array | null;
  /** Whether the table has the column and this image contains it. Never throws. */
  has(column: string): boolean;
}

/** A row. Its getters read the newest image: the after image, and of a deleted row the before image. */
export interface Row extends Image {
  readonly number: number;
  /** The table's full name: "shop.orders". */
  readonly table: string;
  readonly operation: Operation;
  /** The before image; null for an insert and a read. */
  readonly before: Image | null;
  /** The after image; null for a delete. */
  readonly after: Image | null;
  /** Whether an update changed the column; false for other operations, and if it is absent from the after image. */
  changed(column: string): boolean;
  /** Whether the column has this text after the change, and had another value, or none, before it; false for a read. */
  changedTo(column: string, text: string): boolean;
  /** Keeps the row; optionally sends it to a sink, in a group. */
  keep(to?: KeepTo): void;
  /**
   * Sets a column in the after image. The value is null, a text for columns that are read as texts (base64 for those
   * read as bytes), an integer or a bigint for those read as integers, and a number for those read as floats.
   */
  set(column: string, value: Value): void;
  /** Sets a column in both images, where it has a value. Use it to hide what must not get out. */
  replace(column: string, value: Value): void;
  /** Makes a message of the row. A body that is not a text is written as JSON. */
  emit(body: unknown, to?: EmitTo): void;
  /** Fails the row: its messages and edits are discarded, and the plugin's `on_error` decides on it. */
  fail(message: string): void;
}

/** None of the functions may be asynchronous. */
export interface Transform {
  /**
   * The full names of the tables on whose rows the transform decides ("shop.*": all of the schema); by default all. A name that
   * has a dot is within backticks: "`my.shop`.orders".
   */
  tables?: string[];
  /** The columns that the transform uses of them, or an object with those of each table; by default all. */
  columns?: string[] | Record<string, string[]>;
  /** The sinks that the transform uses: one that the configuration lacks is an error at the start. */
  sinks?: string[];
  /** Called once with the settings. */
  setup?(settings: any): void;
  /** Called for each batch. */
  batch?(batch: Batch): void;
  /** Called for each row if there is no `batch`. */
  row?(row: Row): void;
}
export function transform(transform: Transform): {
  configure(settings: string): void;
  describe(table: unknown): unknown;
  process(rows: number): void;
};

declare global {
  /** Writes to the engine's log, each function at its level; `log` is `info`. */
  interface Console {
    debug(...values: unknown[]): void;
    error(...values: unknown[]): void;
    info(...values: unknown[]): void;
    log(...values: unknown[]): void;
    warn(...values: unknown[]): void;
  }
  var console: Console;
}
