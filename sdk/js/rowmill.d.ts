// What rowmill.js offers, for TypeScript.

export type View = "newest" | "before" | "after";
export type Operation = "insert" | "update" | "delete";
export type Value = string | number | bigint | null;

/** What of a column `where` asks for. */
export interface Test {
  readonly tag: string;
}
export function equal(value: Value): Test;
export function oneOf(...values: Value[]): Test;
export function prefix(text: string): Test;
/** Both inclusive; `undefined` is no bound. */
export function between(low?: Value, high?: Value): Test;
export const isNull: Test;
export const changed: Test;
/** It is this now and wasn't before. */
export function changedTo(value: Value): Test;
export function not(test: Test): Test;
/** About the row as it was before. */
export function before(test: Test): Test;

/** What a recipe puts into a message. */
export interface Part {
  readonly tag: string;
}
export const part: {
  column(name: string): Part;
  before(name: string): Part;
  constant(value: unknown): Part;
  row: Part;
  rowBefore: Part;
  operation: Part;
  schema: Part;
  table: Part;
  time: Part;
};
export type Recipe = number & { readonly recipe: unique symbol };
export function recipe(fields: Record<string, Part>, group?: (string | Part)[]): Recipe;

export function log(message: unknown, level?: "error" | "warn" | "info" | "debug" | "trace"): void;
export function count(counter: string, n?: number): void;
/** Microseconds since 1970, if the clock is granted. */
export function now(): number | null;
export function env(name: string): string | null;

/** Rows that the engine picks; who looks at them gets their numbers. */
export interface Rows extends Iterable<number> {
  readonly length: number;
  where(tests: Record<string, Test>): Rows;
  of(...operations: Operation[]): Rows;
}

export interface KeepTo {
  sink?: string;
  group?: string | (string | Part)[];
}
export interface EmitTo {
  sink?: string;
  group?: string;
  deduplicationId?: string;
  attributes?: Record<string, string>;
}

/** Row changes. */
export interface Batch {
  readonly all: Rows;
  readonly rows: number[];
  readonly operations: Operation[];
  where(tests: Record<string, Test>): Rows;
  of(...operations: Operation[]): Rows;
  each(): Iterable<Row>;
  texts(column: string, view?: View): (string | null)[];
  integers(column: string, view?: View): (number | null)[];
  floats(column: string, view?: View): (number | null)[];
  objects(view?: View): (Record<string, unknown> | null)[];
  keep(rows: Rows | number[], to?: KeepTo): void;
  set(rows: Rows | number[], column: string, value: Value): void;
  replace(rows: Rows | number[], column: string, value: Value): void;
  write(recipe: Recipe, rows: Rows | number[], to?: { sink?: string }): void;
  emit(row: number, body: unknown, to?: EmitTo): void;
  fail(row: number, message: string): void;
}

/** A row to be looked at. */
export interface Row {
  readonly number: number;
  readonly operation: Operation;
  text(column: string, view?: View): string | null;
  integer(column: string, view?: View): number | null;
  float(column: string, view?: View): number | null;
  changedTo(column: string, value: string): boolean;
  keep(to?: KeepTo): void;
  set(column: string, value: Value): void;
  replace(column: string, value: Value): void;
  emit(body: unknown, to?: EmitTo): void;
  fail(message: string): void;
}

export interface Transform {
  /** The tables whose rows it decides on; by default all. A name that has a dot is within backticks: "`my.shop`.orders". */
  tables?: string[];
  /** The columns that it uses of them; by default all. */
  columns?: string[];
  /** Called once with the settings. */
  setup?(settings: any): void;
  /** Called for each batch. */
  batch?(batch: Batch): void;
  /** Called for each row, where there is no `batch`. */
  row?(row: Row): void;
}
export function transform(transform: Transform): {
  configure(settings: string): void;
  describe(table: unknown): unknown;
  process(rows: number): unknown;
};
