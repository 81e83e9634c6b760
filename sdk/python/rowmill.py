"""The Rowmill SDK for transforms in Python, in one file.

    from rowmill import Transform, exported, recipe

    class PaidOrders(Transform):
        tables = ["shop.orders"]
        columns = ["id", "customer", "status", "total"]
        sinks = ["warehouse"]
        paid = recipe({"id": "{id}", "total": "{total}"}, group="customer-{customer}")

        def batch(self, batch):
            batch.write(self.paid, batch.where("changed_to(status, 'paid') and total >= 100"), sink="warehouse")
            batch.keep(batch.of("delete"))

    WitWorld = exported(PaidOrders)

`batch` decides on a batch of rows as a whole: the engine selects rows by conditions, keeps, edits and reroutes them,
and writes messages by a recipe. That costs little for each row, although Python is interpreted. Conditions, and the
placeholders of recipes, are expressions in a subset of MySQL's syntax (docs/expressions.md); `quote` writes a value
into a condition. Where each row must be looked at, `row` takes the place of `batch`, at a microsecond or more for each
row:

        def row(self, row):
            if row.changed_to("status", "paid"):
                row.keep()

A row that is neither kept nor failed is dropped. Rows of other tables are kept unchanged.

An exception in `row` is the failure of that row: whatever else was done for it does not count, the plugin's `on_error`
decides on it, and the other rows are not affected. An exception in `batch` is the failure of the batch. The error has
the calls in the transform's own files that led to it, innermost first: `at app.py:12 in row`. `Retry` is a transient
failure.

The names of columns are compared without case, as MySQL does. A column that the table lacks, that the transform does
not declare in `columns`, or that is of another kind than asked for is a `ColumnError`, never an empty value.

`print` writes to the engine's log. There are no files when the transform runs: import modules at the top of the file,
not within functions. An editor that does not infer the types of `batch` and `row` takes `def row(self, row: Row)`.

    componentize-py -d wit -w transform componentize app -o NAME.wasm
"""

from __future__ import annotations

import base64
import decimal
import enum
import functools
import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# componentize-py makes these modules of the WIT world when it builds.
from componentize_py_types import Err  # type: ignore
from wit_world.imports import host, outcome, query, types  # type: ignore

#: Views of a row: the newest image (after; of a deleted row: before), the image before and the image after the change.
View = typing.Literal["newest", "before", "after"]
NEWEST: typing.Final = "newest"
BEFORE: typing.Final = "before"
AFTER: typing.Final = "after"
_VIEWS = {NEWEST: query.View.NEWEST, BEFORE: query.View.BEFORE, AFTER: query.View.AFTER}

Operation = typing.Literal["insert", "update", "delete", "read"]  # "read": by a snapshot
_OPERATIONS = {"insert": "c", "update": "u", "delete": "d", "read": "r"}  # by their code; and what `op()` calls them

#: What a column may be set to.
Value = str | int | float | decimal.Decimal | bytes | None

# Types that have the names of getters, which hide them in annotations within their class.
_Bytes = bytes
_Decimal = decimal.Decimal
_Float = float

_Function = typing.TypeVar("_Function", bound=Callable)


def _cached(function: _Function) -> _Function:
    return typing.cast(_Function, functools.lru_cache(256)(function))


class ColumnError(Exception):
    """A column that cannot be read or set as asked. In `row` it is the failure of that row."""


class Retry(Exception):
    """A transient failure of `row` or `batch`: the engine gives the same batch again, up to three times in 1.3 s."""


# ---- Tables and columns ----

#: The getters, and the type that each one reads a column as.
_GETTERS = {
    "text": (query.texts, "text"),
    "integer": (query.integers, "an integer"),
    "unsigned": (query.unsigned, "an integer"),
    "float": (query.floats, "a float"),
    "bytes": (query.blobs, "bytes"),
    "decimal": (query.texts, "a decimal"),
}
_KINDS = {
    "text": "DECIMAL TEXT JSON DATE TIME DATETIME TIMESTAMP ENUM SET",
    "an integer": "INT UINT YEAR BIT",
    "a float": "FLOAT",
    "bytes": "BYTES GEOMETRY VECTOR",
}
_TYPE_OF_KIND = {types.Kind[kind]: type_ for type_, kinds in _KINDS.items() for kind in kinds.split()}
_TYPE_OF_VALUE = {str: "text", int: "an integer", float: "a float", bytes: "bytes", decimal.Decimal: "a decimal"}


def _folded(name):
    """Returns a name in lower case, letter by letter: the engine's comparison does not look at a letter's neighbors."""
    return "".join(map(str.lower, name))


def _in_backticks(name):
    return "`" + name.replace("`", "``") + "`"


def _quoted(name):
    """Returns a name as it is written beside a dot: within backticks where it has a dot or a backtick itself."""
    return _in_backticks(name) if "." in name or "`" in name else name


def _names(names) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


class _Column:
    """A column of a described table."""

    def __init__(self, column, table_name, is_declared):
        self.name, self.kind, self.mysql_type = column.name, column.kind, column.mysql_type
        self.type = _TYPE_OF_KIND[column.kind]
        self.quoted = _in_backticks(column.name)
        self.label = f"column `{column.name}` of {table_name}"
        self.is_declared = is_declared

    def check_type(self, asked):
        is_decimal = asked == "a decimal" and self.kind is types.Kind.DECIMAL
        if asked != self.type and not is_decimal:
            raise ColumnError(f"{self.label} is {self.mysql_type}, which is read as {self.type}, not as {asked}")

    def text_of(self, value):
        """Returns a new value as `outcome` takes it. A text for a column of bytes is encoded as UTF-8."""
        if value is None:
            return None
        if isinstance(value, str) and self.type == "bytes":
            value = value.encode()
        self.check_type(_type_of(value))
        return _text(value)


class _Table:
    """A described table, by which names and kinds are checked. Without `declared` the transform uses all columns."""

    def __init__(self, table, name, declared):
        self.name = name
        declared = set(map(_folded, declared))
        columns = [_Column(c, name, not declared or _folded(c.name) in declared) for c in table.columns]
        self._columns = {_folded(column.name): column for column in columns} | {c.name: c for c in columns}

    def find(self, name):
        """Returns the column of this name, or None."""
        return self._columns.get(name) or self._columns.get(_folded(name))

    def column(self, name):
        column = self.find(name)
        if column is None:
            raise ColumnError(f"{self.name} has no column `{name}`")
        if not column.is_declared:
            raise ColumnError(f"{column.label} is not among the columns that the transform declares")
        return column


_described: dict[int, _Table] = {}  # by ID


# ---- Values, conditions and recipes ----


def _utf8(text):
    """Returns the text. A lone surrogate or another type, which would trap on the way to the engine, is an error."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not a str")
    if not text.isascii():
        text.encode()
    return text


def _type_of(value):
    for class_, type_ in _TYPE_OF_VALUE.items():
        if isinstance(value, class_):
            return type_
    raise TypeError(f"a column's value is a str, int, float, Decimal or bytes, not {type(value).__name__}")


def _text(value) -> str:
    """Returns a value as the engine parses it: bytes are base64."""
    match _type_of(value):
        case "text":
            return _utf8(value)
        case "an integer":
            return str(int(value))
        case "a float":
            return repr(value)
        case "bytes":
            return base64.b64encode(value).decode()
    return f"{value:f}"


def quote(value: Value | bool) -> str:
    """Returns a value as a literal of conditions: `f"status = {quote(status)}"`. None is NULL, which equals nothing."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (float, decimal.Decimal)):
        number = decimal.Decimal(str(value))
        if not number.is_finite():
            raise ValueError(f"{value} has no form in a condition")
        return f"{number:f}"
    return _text(value) if isinstance(value, int) else _literal(_text(value))


def _literal(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


_NAME = r"(`(?:[^`]|``)+`|[^`.]+)"


def _is_of_table(name):
    """Returns the condition that a row is of the table of this full name."""
    names = re.fullmatch(rf"{_NAME}\.{_NAME}", name)
    if names is None:
        raise ValueError(f"`{name}` is not a table's full name, such as `shop.orders`")
    schema, table = (_literal(n[1:-1].replace("``", "`") if n[0] == "`" else n) for n in names.groups())
    return f"schema() = {schema} and table() = {table}"


class Recipe:
    """A description of messages, which the engine writes: see `recipe`."""

    __slots__ = ("_number", "_text")

    def __init__(self, text):
        self._text, self._number = text, None

    def _add(self):
        """Returns the recipe's number. For an invalid recipe there is none, and the engine makes the call fail."""
        number = host.add_recipe(self._text)
        if number != _NO_RECIPE:
            self._number = number
        return number


_NO_RECIPE = 0xFFFF_FFFF
_new_recipes: list[Recipe] | None = []  # those that `configure` adds; None: it is over


def recipe(
    body: typing.Any,
    group: str = "",
    deduplication_id: str = "",
    attributes: Mapping[str, str] | None = None,
    for_each: str | None = None,
) -> Recipe:
    """Returns a description of messages, for `write`: `recipe({"id": "{id}"}, group="order-{id}")`. The body is any
    JSON; its strings, the group, the deduplication ID and the attributes have placeholders. With `for_each` it makes a
    message of each item of a JSON array. Make each recipe once, as an attribute of the class or in `setup`."""
    fields = {"group": group, "deduplication_id": deduplication_id, "attributes": attributes, "for_each": for_each}
    made = Recipe(_json({"body": body} | {name: value for name, value in fields.items() if value}))
    if _new_recipes is None:
        made._add()
    else:
        _new_recipes.append(made)
    return made


def template(text: str) -> outcome.Group_Template:
    """Returns a message group for `keep`, with placeholders: `template("customer-{customer}")`."""
    return outcome.Group_Template(_utf8(text))


def _group(group):
    return outcome.Group_Text(_utf8(group)) if isinstance(group, str) else group


def _json_value(value):
    """Returns what JSON has no form for as the engine writes it: decimals as strings, bytes as base64."""
    if isinstance(value, (bytes, decimal.Decimal)):
        return _text(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_json_value).encode


def _json(value):
    return _utf8(_encode(value))


# ---- The host ----


class Level(enum.Enum):
    """The level of a line in the log, by its number in `host.Level`."""

    ERROR, WARN, INFO, DEBUG, TRACE = range(5)


def log(message: object, level: Level = Level.INFO) -> None:
    """Writes a line to the engine's log, with the plugin's name."""
    host.log(host.Level(Level(level).value), _escaped(str(message)))


def count(counter: str, n: int = 1) -> None:
    """Adds to a counter of the plugin."""
    if not isinstance(n, int) or not 0 <= n < 1 << 64:
        raise ValueError(f"{n!r} cannot be added to a counter")
    host.count(_utf8(counter), n)


def now() -> int | None:
    """Returns the time in microseconds since 1970, if the plugin's .toml grants the clock."""
    return host.now()


def env(name: str) -> str | None:
    """Returns an environment variable, if it is set and the plugin's .toml grants it."""
    return host.env(_utf8(name))


_sinks: dict[str, int] = {}  # their numbers, by name


def _sink(name):
    if name is None:
        return None
    if name not in _sinks:
        number = host.sink(_utf8(name))
        if number is None:
            raise ValueError(f"the configuration has no sink `{name}`")
        _sinks[name] = number
    return _sinks[name]


# ---- Rows of a batch ----


class _Lists:
    """Lists with an item for each of the rows, in the order of their numbers: `zip(rows, rows.texts("name"))`."""

    @property
    def operations(self) -> list[Operation]:
        """The operations: "insert", "update", "delete" or "read" (by a snapshot)."""
        return [_current.operation_list[index] for index in self._indexes()]

    @property
    def tables(self) -> list[str]:
        """The full names of the rows' tables."""
        return [_current.table_list[index].name for index in self._indexes()]

    def texts(self, column: str, view: View = NEWEST) -> list[str | None]:
        """A column of kind decimal, text, json, date, time, datetime, timestamp, enum or set; None for NULL.

        These lists raise a `ColumnError` if the table of one of the rows lacks the column or has it of another kind, if
        a row does not have that image or if the column is absent from it, and if an integer does not fit."""
        return self._list("text", column, view)

    def integers(self, column: str, view: View = NEWEST) -> list[int | None]:
        """A column of kind int, uint, year or bit, from -2^63 to 2^63 - 1; None for NULL."""
        return self._list("integer", column, view)

    def unsigned(self, column: str, view: View = NEWEST) -> list[int | None]:
        """A column of kind int, uint, year or bit, from 0 to 2^64 - 1; None for NULL."""
        return self._list("unsigned", column, view)

    def floats(self, column: str, view: View = NEWEST) -> list[float | None]:
        """A column of kind float; None for NULL."""
        return self._list("float", column, view)

    def decimals(self, column: str, view: View = NEWEST) -> list[decimal.Decimal | None]:
        """A column of kind decimal, as `decimal.Decimal`; None for NULL."""
        return [text and decimal.Decimal(text) for text in self._list("decimal", column, view)]

    def blobs(self, column: str, view: View = NEWEST) -> list[bytes | None]:
        """A column of kind bytes, geometry or vector; None for NULL."""
        return self._list("bytes", column, view)

    def has(self, column: str, view: View = NEWEST) -> list[bool]:
        """Whether the transform may read the column and the row's image contains it."""
        return [Image(_current, index, view).has(column) for index in self._indexes()]

    def objects(self, view: View = NEWEST) -> list[dict[str, typing.Any] | None]:
        """The rows as dicts; None for a row that does not have that image."""
        texts = query.json(_VIEWS[view])
        return [json.loads(text) if (text := texts[index]) else None for index in self._indexes()]

    def _indexes(self) -> Sequence[int]:
        """Returns the indexes of the rows: see `_Data`."""
        raise NotImplementedError

    def _list(self, what, column, view):
        data, indexes = _current, self._indexes()
        tables = [data.table_list[index] for index in indexes]
        columns = {table: data.column(table, what, column, view) for table in dict.fromkeys(tables)}
        values = [columns[table][index] for table, index in zip(tables, indexes)]
        if None in values:
            for value, index in zip(values, indexes):
                if value is None:
                    data.check_null(index, what, column, view)
        return values


class Rows(_Lists):
    """The rows for which all of some conditions hold. The engine selects them where they are passed to a command;
    iterating over them gives their numbers. Each one is made once, as batch after batch mostly asks for the same."""

    def __init__(self, conditions, tables=None):
        self._conditions, self._of_tables = conditions, tables
        joined = " and ".join(f"({condition})" for condition in conditions)
        self._condition = conditions[0] if len(conditions) == 1 else joined or "true"
        self._given = outcome.Rows_ThatMatch(self._condition)

    @_cached
    def where(self, condition: str) -> Rows:
        """Returns those of these rows for which a condition holds as well. One that makes no sense for a table of these
        rows, as the table lacks one of its columns, is an error of the batch."""
        return Rows((*self._conditions, _utf8(condition)), self._of_tables)

    @_cached
    def of(self, *operations: Operation) -> Rows:
        """Returns those of these rows with these operations: "insert", "update", "delete", "read" (by a snapshot)."""
        if unknown := set(operations).difference(_OPERATIONS):
            raise ValueError(f"the operations are insert, update, delete and read, not {', '.join(sorted(unknown))}")
        codes = ", ".join(f"'{_OPERATIONS[operation]}'" for operation in operations)
        return Rows((f"op() in ({codes})" if codes else "false", *self._conditions), self._of_tables)

    @_cached
    def table(self, *names: str) -> Rows:
        """Returns those of these rows that are of these tables: "shop.orders"."""
        if unknown := [name for name in names if not _decides_on(name)]:
            raise ValueError(f"the transform's `tables` lack {', '.join(unknown)}")
        condition = " or ".join(map(_is_of_table, names)) or "false"
        left = [name for name in names if self._of_tables is None or name in self._of_tables]
        return Rows((condition, *self._conditions), left)

    def _is_about(self, table):
        return self._of_tables is None or table.name in self._of_tables

    def _indexes(self):
        if self is _ALL:
            return range(len(_current.rows))
        return [_current.indexes[number] for number in self]

    def __iter__(self) -> Iterator[int]:
        return iter(_current.select(self._condition))

    def __len__(self) -> int:
        return len(_current.select(self._condition))


@functools.lru_cache(256)
def _common_column(rows, name):
    """Returns a column if it is of the same kind in all tables that the rows may be of, or None."""
    try:
        columns = [table.column(name) for table in _described.values() if rows._is_about(table)]
    except ColumnError:
        return None
    return columns[0] if len({column.kind for column in columns}) == 1 else None


def _decides_on(name):
    """Returns whether the transform decides on the table of this full name."""
    if _instance.tables is None:
        return True
    tables = _names(_instance.tables)
    return name in tables or any(t.endswith(".*") and name.startswith(t[:-1]) for t in tables)


_ALL = Rows(())
_instance: Transform
_current: _Data  # the batch of the current call


class _Data:
    """The engine's answers about a batch: each one is about all rows, and asked for once. An index is the place of a
    row in these answers, a number its place in the batch, which may have other rows as well."""

    def __init__(self):
        self._answers, self._columns, self._selections = {}, {}, {}

    @functools.cached_property
    def rows(self):
        """The rows' numbers."""
        return list(query.asked())

    @functools.cached_property
    def indexes(self):
        """The rows' indexes by their numbers."""
        return {number: index for index, number in enumerate(self.rows)}

    @functools.cached_property
    def operation_list(self) -> list[Operation]:
        names: tuple = (None, *_OPERATIONS)
        return [names[code] for code in query.operations()]

    @functools.cached_property
    def table_list(self):
        return [_described[table] for table in query.tables()]

    def answer(self, function, column, view):
        key = (function, column.name, view)
        known = self._answers.get(key)
        if known is None:
            known = self._answers[key] = function(column.name, _VIEWS[view])
        return known

    def column(self, table, what, name, view):
        """Returns the values of a column, which is checked for the rows of this table only."""
        key = (table, what, name, view)
        known = self._columns.get(key)
        if known is None:
            function, type_ = _GETTERS[what]
            column = table.column(name)
            column.check_type(type_)
            known = self._columns[key] = self.answer(function, column, view)
        return known

    def check_null(self, index, what, name, view):
        """Checks that a column is NULL in a row for which the engine gives no value."""
        operation = self.operation_list[index]
        if view == (AFTER if operation == "delete" else BEFORE) and operation != "update":
            raise ColumnError(f"the row has no {view} image")
        column = self.table_list[index].column(name)
        if not self.answer(query.has, column, view)[index]:
            raise ColumnError(f"{column.label} is absent from the row's image; ask `has` first")
        if what == "integer" and (value := self.answer(query.unsigned, column, view)[index]) is not None:
            raise ColumnError(f"{column.label} is {value}, which does not fit a signed integer")
        if what == "unsigned" and (value := self.answer(query.integers, column, view)[index]) is not None:
            raise ColumnError(f"{column.label} is {value}, which does not fit an unsigned integer")
        # The image before a change is always complete.
        if column.kind is types.Kind.JSON and view != BEFORE:
            if self.rows[index] not in self.select(f"has({column.quoted}) and {column.quoted} is null"):
                raise ColumnError(f"{column.label} has only its changes: the update was partial")

    def select(self, condition):
        """Returns the numbers of the rows for which a condition holds, as the keys of a dict, ascending."""
        known = self._selections.get(condition)
        if known is None:
            known = self._selections[condition] = dict.fromkeys(query.select(condition))
        return known


class Batch(_Lists):
    """Row changes, in binlog order. The commands' `rows` are what `all`, `where`, `of` and `table` return, or a list of
    `Row`s or their numbers. The lists are about all rows: `zip(batch.rows, batch.texts("name"))`."""

    def __init__(self):
        self._kept, self._emits = [], []

    @property
    def rows(self) -> list[int]:
        """The numbers of all rows."""
        return _current.rows

    @property
    def all(self) -> Rows:
        """All rows."""
        return _ALL

    def where(self, condition: str) -> Rows:
        """Returns the rows for which a condition holds: `where("changed_to(status, 'paid')")`. A condition that makes
        no sense for a table in the batch, as the table lacks one of its columns, is an error of the batch; `table`
        leaves out other tables."""
        return _ALL.where(condition)

    def of(self, *operations: Operation) -> Rows:
        """Returns the rows of these operations: "insert", "update", "delete", "read" (by a snapshot)."""
        return _ALL.of(*operations)

    def table(self, *names: str) -> Rows:
        """Returns the rows of these tables: "shop.orders"."""
        return _ALL.table(*names)

    def each(self, rows: Rows | Iterable[int | Row] = _ALL) -> Iterator[Row]:
        """Returns the rows one by one, each as a `Row`."""
        data = _current
        indexes = rows._indexes() if isinstance(rows, Rows) else [data.indexes[number] for number in _numbers(rows)]
        return (Row(self, data, index) for index in indexes)

    def _indexes(self):
        return _ALL._indexes()

    def keep(
        self,
        rows: Rows | Iterable[int | Row],
        sink: str | None = None,
        group: str | outcome.Group_Template = "",
    ) -> None:
        """Keeps the rows. They may go to a sink, in a message group: a text, or a `template` with placeholders."""
        if isinstance(rows, Rows):
            given = rows._given
            outcome.keep(given)
        else:
            numbers = _numbers(rows)
            given = outcome.Rows_These(numbers)
            self._kept.extend(numbers)
        if sink is not None or group:
            outcome.reroute(given, _sink(sink), _group(group))

    def set(self, rows: Rows | Iterable[int | Row], column: str, value: Value) -> None:
        """Sets a column to a value in the rows' after images; None is NULL. The value's type is the one that the column
        is read as; a column of bytes may be set to a text as well."""
        for given, text in self._edits(rows, column, value):
            outcome.set(given, column, text)

    def replace(self, rows: Rows | Iterable[int | Row], column: str, value: Value) -> None:
        """Sets a column to a value in both images of the rows, wherever it has a value. Use it to hide what must not
        get out."""
        for given, text in self._edits(rows, column, value):
            outcome.replace(given, column, text)

    def _edits(self, rows, column, value):
        """Returns pairs of rows and the text of their new value, which depends on the column's kind in their table."""
        if isinstance(rows, Rows) and (common := _common_column(rows, column)):
            try:
                return [(rows._given, common.text_of(value))]
            except ColumnError:
                pass  # an error only if there are such rows in the batch
        by_table = {}
        for number in _numbers(rows):
            by_table.setdefault(_current.table_list[_current.indexes[number]], []).append(number)
        return [(outcome.Rows_These(of), table.column(column).text_of(value)) for table, of in by_table.items()]

    def write(self, recipe: Recipe, rows: Rows | Iterable[int | Row], sink: str | None = None) -> None:
        """Makes a message of each of the rows by a recipe."""
        if not isinstance(recipe, Recipe):
            raise TypeError(f"{recipe!r} is not what `recipe` returns")
        number = recipe._add() if recipe._number is None else recipe._number
        given = rows._given if isinstance(rows, Rows) else outcome.Rows_These(_numbers(rows))
        outcome.write(given, number, _sink(sink))

    def emit(
        self,
        row: int | Row,
        body: typing.Any,
        sink: str | None = None,
        group: str = "",
        deduplication_id: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Makes a message of a row. A body that is not a str is written as JSON."""
        body = _utf8(body) if isinstance(body, str) else _json(body)
        pairs = [(_utf8(name), _utf8(value)) for name, value in attributes.items()] if attributes else []
        message = outcome.Message(_number(row), _sink(sink), _utf8(group), _utf8(deduplication_id), body, pairs)
        self._emits.append(message)

    def fail(self, row: int | Row, message: object) -> None:
        """Reports a row that the transform cannot process; the plugin's `on_error` decides on it."""
        outcome.fail(_number(row), _escaped(str(message)))

    def _finish(self):
        if self._kept:
            outcome.keep(outcome.Rows_These(self._kept))
        if self._emits:
            outcome.emit(self._emits)


class Image:
    """The columns of a row, in one of its images. The getters return None for NULL. They raise a `ColumnError`, which
    is the failure of the row, if the table lacks the column, if the transform does not declare it, if it is of another
    kind, and if it is absent from the image."""

    __slots__ = ("_data", "_index", "_table", "_view")

    def __init__(self, data, index, view):
        self._data, self._index, self._table, self._view = data, index, data.table_list[index], view

    def text(self, column: str) -> str | None:
        """A column of kind decimal, text, json, date, time, datetime, timestamp, enum or set."""
        return self._get("text", column)

    def integer(self, column: str) -> int | None:
        """A column of kind int, uint, year or bit, from -2^63 to 2^63 - 1. A greater value is a `ColumnError`."""
        return self._get("integer", column)

    def unsigned(self, column: str) -> int | None:
        """A column of kind int, uint, year or bit, from 0 to 2^64 - 1. A negative value is a `ColumnError`."""
        return self._get("unsigned", column)

    def float(self, column: str) -> _Float | None:
        """A column of kind float."""
        return self._get("float", column)

    def decimal(self, column: str) -> _Decimal | None:
        """A column of kind decimal, as `decimal.Decimal`."""
        text = self._get("decimal", column)
        return text and decimal.Decimal(text)

    def bytes(self, column: str) -> _Bytes | None:
        """A column of kind bytes, geometry or vector."""
        return self._get("bytes", column)

    def has(self, column: str) -> bool:
        """Whether the transform may read the column and this image contains it. It never fails."""
        found = self._table.find(column)
        return found is not None and found.is_declared and self._data.answer(query.has, found, self._view)[self._index]

    def _get(self, what, column):
        value = self._data.column(self._table, what, column, self._view)[self._index]
        if value is None:
            self._data.check_null(self._index, what, column, self._view)
        return value


class Row(Image):
    """A row. Its getters read the newest image: the one after the change, and of a deleted row the one before. What is
    asked of a row is fetched for all rows of the batch at once."""

    __slots__ = ("_batch", "number")

    def __init__(self, batch, data, index):
        self._data, self._index, self._table, self._view = data, index, data.table_list[index], NEWEST
        self._batch, self.number = batch, data.rows[index]

    @property
    def operation(self) -> Operation:
        """ "insert", "update", "delete" or "read" (by a snapshot)."""
        return self._data.operation_list[self._index]

    @property
    def table(self) -> str:
        """The full name of the row's table."""
        return self._table.name

    @property
    def before(self) -> Image | None:
        """The image before the change; None for an insert and a read."""
        return None if self.operation in ("insert", "read") else Image(self._data, self._index, BEFORE)

    @property
    def after(self) -> Image | None:
        """The image after the change; None for a delete."""
        return None if self.operation == "delete" else Image(self._data, self._index, AFTER)

    def changed(self, column: str) -> bool:
        """Whether an update changed the column; False for other operations."""
        found = self._table.column(column)
        if self.operation != "update":
            return False
        return self.number in self._data.select(f"has({found.quoted}) and changed({found.quoted})")

    def changed_to(self, column: str, text: str) -> bool:
        """Whether a column that `text` reads has this text after the change, and another value, or none, before it;
        False for a read. A column that is absent after the change is unchanged; one that is absent before it had another
        value."""
        if not isinstance(text, str):
            raise TypeError(f"`changed_to` compares texts, and {text!r} is not a str")
        newest = self._data.column(self._table, "text", column, NEWEST)[self._index]
        if newest != text or self.operation in ("delete", "read"):
            return False
        return self._data.column(self._table, "text", column, BEFORE)[self._index] != text

    def keep(self, sink: str | None = None, group: str | outcome.Group_Template = "") -> None:
        """Keeps the row. It may go to a sink, in a message group: a text, or a `template` with placeholders."""
        if sink is None and not group:
            self._batch._kept.append(self.number)
        else:
            self._batch.keep((self.number,), sink, group)

    def set(self, column: str, value: Value) -> None:
        """Sets a column to a value in the after image; None is NULL."""
        text = self._table.column(column).text_of(value)
        outcome.set(outcome.Rows_These([self.number]), column, text)

    def replace(self, column: str, value: Value) -> None:
        """Sets a column to a value in both images, wherever it has a value."""
        text = self._table.column(column).text_of(value)
        outcome.replace(outcome.Rows_These([self.number]), column, text)

    def emit(
        self,
        body: typing.Any,
        sink: str | None = None,
        group: str = "",
        deduplication_id: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Makes a message of the row. A body that is not a str is written as JSON."""
        self._batch.emit(self.number, body, sink, group, deduplication_id, attributes)

    def fail(self, message: object) -> None:
        """Reports that the transform cannot process the row."""
        self._batch.fail(self.number, message)


def _number(row: int | Row) -> int:
    if isinstance(row, int):
        return row
    if isinstance(row, Row):
        return row.number
    raise TypeError(f"a row is a `Row` or its number, not {row!r}")


def _numbers(rows: Iterable[int | Row]) -> list[int]:
    return [row if type(row) is int else _number(row) for row in rows]


# ---- The transform ----


class Transform:
    """A transform. A subclass has `batch` or `row`."""

    #: The full names of the tables on whose rows it decides, or `shop.*` for all tables of a schema; None: all tables.
    #: A name that has a dot is within backticks: "`my.shop`.orders".
    tables: Sequence[str] | None = None
    #: The names of the columns that it uses: a list for all of these tables, or a dict with lists by the tables' full
    #: names. The engine need not decode the others. Without names it uses all columns of the table. A name that the
    #: table does not have is an error.
    columns: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    #: The names of the sinks that it uses. One that the configuration lacks is then an error of the engine's start, and
    #: of `rowmill check`, rather than of a row. `setup` may set them.
    sinks: Sequence[str] = ()

    def setup(self, settings: dict[str, typing.Any]) -> None:
        """Called once, with the settings. An exception stops the engine's start."""

    def batch(self, batch: Batch) -> None:
        """Decides on a batch: by default, row by row."""
        for row in batch.each():
            try:
                self.row(row)
            except Retry:
                raise
            except Exception as error:
                row.fail(_message(error))

    def row(self, row: Row) -> None:
        """Decides on a row."""
        raise NotImplementedError


_CALLS_MAX = 20
_SDK_FILE = _folded.__code__.co_filename
_LIBRARY = json.JSONEncoder.encode.__code__.co_filename.removesuffix("json/encoder.py")


def _escaped(message):
    """Returns a message with escapes in place of lone surrogates."""
    return message.encode(errors="backslashreplace").decode()


def _calls(error):
    """Returns the calls in the transform's own files that led to an exception, innermost first: `app.py:12 in row`."""
    calls = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = code.co_filename
        if file != _SDK_FILE and not file.startswith((_LIBRARY, "<")):
            calls.append(f"{file.rpartition('/')[2]}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return calls[::-1]


def _message(error):
    """Returns an exception's type and message, with its place, and below them the calls that led to it."""
    if isinstance(error, ColumnError):
        return _escaped(str(error))
    text = ": ".join(filter(None, [type(error).__name__, str(error)]))
    calls = _calls(error)
    if calls:
        text += f" ({calls[0]})"
    lines = [f"  at {call}" for call in calls]
    if len(lines) > _CALLS_MAX:
        lines[_CALLS_MAX // 2 : -_CALLS_MAX // 2] = [f"  ... {len(lines) - _CALLS_MAX} more"]
    return _escaped("\n".join([text, *lines]))


def exported(transform: type[Transform]) -> type:
    """Returns the class of the module's exports, which must be named `WitWorld`."""
    global _instance
    if transform.batch is Transform.batch and transform.row is Transform.row:
        raise TypeError(f"{transform.__name__} has neither a method `row` nor `batch`")
    instance = _instance = transform()
    if isinstance(instance.columns, Mapping):
        if unknown := [name for name in instance.columns if not _decides_on(name)]:
            raise ValueError(f"`columns` names tables that `tables` lacks: {', '.join(unknown)}")

    class WitWorld:
        def configure(self, settings):
            global _new_recipes
            try:
                for made in _new_recipes or ():
                    made._add()
                _new_recipes = None
                instance.setup(json.loads(settings))
                missing = [name for name in _names(instance.sinks) if host.sink(_utf8(name)) is None]
            except Exception as error:
                raise Err(_message(error))
            if missing:
                raise Err(f"the configuration has no sink `{missing[0]}`, which the transform declares")

        def describe(self, table):
            name = f"{_quoted(table.schema)}.{_quoted(table.name)}"
            _described.pop(table.id, None)
            _common_column.cache_clear()
            if not _decides_on(name):
                return types.Interest_Pass()
            declared = instance.columns
            declared = _names(declared.get(name) if isinstance(declared, Mapping) else declared)
            _described[table.id] = _Table(table, name, declared)
            if not declared:
                return types.Interest_All()
            return types.Interest_Want(types.Want(declared, before=True, inserts=True, updates=True, deletes=True))

        def process(self, rows):
            global _current
            _current = _Data()
            batch = Batch()
            try:
                instance.batch(batch)
                batch._finish()
            except Retry as error:
                raise Err(types.Failure_Retry(_escaped(str(error))))
            except Exception as error:
                raise Err(types.Failure_Reject(_message(error)))

    return WitWorld
