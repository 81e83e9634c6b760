"""The Rowmill SDK for transforms in Python, in one file.

    from rowmill import Transform, changed_to, exported

    class Filter(Transform):
        tables = ["shop.orders"]
        columns = ["status"]

        def batch(self, batch):
            batch.keep(batch.where(status=changed_to("paid")))

    WitWorld = exported(Filter)

`batch` decides on a batch of rows as a whole: the engine selects rows by conditions, keeps, edits and reroutes them,
and writes messages by a recipe. That costs little for each row, although Python is interpreted. Where each row must be
looked at, `row` takes the place of `batch`, at a microsecond or more for each row:

        def row(self, row):
            if row.changed_to("status", "paid"):
                row.keep()

A row that is neither kept nor failed is dropped. Rows of other tables are kept unchanged.

An exception in `row` is the failure of that row: whatever else was done for it does not count, the plugin's `on_error`
decides on it, and the other rows are not affected. An exception in `batch` is the failure of the batch. `Retry` is a
transient failure.

The names of columns are compared without case, as MySQL does. A column that the table lacks, that the transform does
not declare in `columns`, or that is of another kind than asked for is a `ColumnError`, never an empty value.

    componentize-py -d wit -w transform componentize --stub-wasi app -o NAME.wasm
"""

import base64
import decimal
import functools
import json

from componentize_py_types import Err
from wit_world.imports import bulk, host, query, types

#: Views of a row: the newest image (after; of a deleted row: before), the image before and the image after the change.
NEWEST, BEFORE, AFTER = "newest", "before", "after"
_VIEWS = {NEWEST: query.View.NEWEST, BEFORE: query.View.BEFORE, AFTER: query.View.AFTER}
_OPERATIONS = ("insert", "update", "delete")


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


def _quoted(name):
    """Returns a name as it is written beside a dot: within backticks where it has a dot or a backtick itself."""
    return "`" + name.replace("`", "``") + "`" if "." in name or "`" in name else name


def _names(names):
    return [names] if isinstance(names, str) else list(names or ())


class _Column:
    """A column of a described table."""

    def __init__(self, column, table_name, is_declared):
        self.name, self.kind, self.mysql_type = column.name, column.kind, column.mysql_type
        self.type = _TYPE_OF_KIND[column.kind]
        self.label = f"column `{column.name}` of {table_name}"
        self.is_declared = is_declared

    def check_type(self, asked):
        is_decimal = asked == "a decimal" and self.kind is types.Kind.DECIMAL
        if asked != self.type and not is_decimal:
            raise ColumnError(f"{self.label} is {self.mysql_type}, which is read as {self.type}, not as {asked}")

    def text_of(self, value):
        """Returns a new value as `bulk` takes it. A text for a column of bytes is encoded as UTF-8."""
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


_described = {}  # tables by ID


# ---- Conditions ----


def _utf8(text):
    """Returns the text. A lone surrogate, which would trap on the way to the engine, is an error."""
    if not text.isascii():
        text.encode()
    return text


def _type_of(value):
    for class_, type_ in _TYPE_OF_VALUE.items():
        if isinstance(value, class_):
            return type_
    raise TypeError(f"a column's value is a str, int, float, Decimal or bytes, not {type(value).__name__}")


def _text(value):
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
        case "a decimal":
            return f"{value:f}"


class _Test:
    """A test of `where`. The same tests are used for batch after batch: each is made once, and compared by identity."""

    __slots__ = ("kind", "values", "view", "negated")

    def __init__(self, kind, values, view, negated):
        self.kind, self.values, self.view, self.negated = kind, values, view, negated

    def condition(self, column):
        return query.Condition(column, _VIEWS[self.view], self.kind(*self.values), self.negated)


@functools.lru_cache(256)
def _test(kind, *values, view=NEWEST, negated=False):
    return _Test(kind, values, view, negated)


def equal(value):
    """The column has this value. For NULL there is `is_null`."""
    return _test(query.Test_Equal, _text(value))


def one_of(*values):
    return _test(_one_of, *map(_text, values))


def _one_of(*texts):
    return query.Test_OneOf(list(texts))


def prefix(text):
    return _test(query.Test_Prefix, text)


def between(low=None, high=None):
    """The value is between these bounds, both inclusive; None is no bound."""
    return _test(query.Test_Between, ("" if low is None else _text(low), "" if high is None else _text(high)))


def is_null():
    return _test(query.Test_Null)


def changed():
    """The update changed the column; true for all columns of inserts and deletes."""
    return _test(query.Test_Changed)


def changed_to(value):
    """The column has this value after the change, and had another one, or none, before it."""
    return _test(query.Test_ChangedTo, _text(value))


def negated(test):
    return _test(test.kind, *test.values, view=test.view, negated=not test.negated)


def before(test):
    """The test applies to the image before the change."""
    return _test(test.kind, *test.values, view=BEFORE, negated=test.negated)


# ---- Recipes and the host ----


class part:
    """The parts that a recipe puts into a message."""

    column = types.Part_Column
    before = types.Part_Before
    row = types.Part_Row()
    row_before = types.Part_RowBefore()
    operation = types.Part_Operation()
    schema = types.Part_Schema()
    table = types.Part_Table()
    time = types.Part_Time()

    @staticmethod
    def constant(value):
        return types.Part_Constant(_json(value))


def recipe(fields, group=()):
    """Returns a description of messages: `recipe({"id": part.column("id")}, group=["order-", part.column("id")])`. Make
    it once, in `setup` or later. A column that a row's table lacks is an error of that row."""
    fields = [types.Field(name, value) for name, value in fields.items()]
    return host.add_recipe(types.Recipe(fields, _group(group)))


def _group(group):
    pieces = [group] if isinstance(group, str) else group
    return [
        types.GroupPart_Text(_utf8(piece)) if isinstance(piece, str) else types.GroupPart_Column(piece.value)
        for piece in pieces
        if piece != ""
    ]


def _json_value(value):
    """Returns what JSON has no form for as the engine writes it: decimals as strings, bytes as base64."""
    if isinstance(value, (bytes, decimal.Decimal)):
        return _text(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_json_value).encode


Level = host.Level  # ERROR, WARN, INFO, DEBUG, TRACE


def log(message, level=Level.INFO):
    host.log(level, str(message))


def count(counter, n=1):
    host.count(counter, n)


now, env = host.now, host.env
_sinks = {}


def _sink(name):
    if name is None:
        return None
    if name not in _sinks:
        number = host.sink(name)
        if number is None:
            raise ValueError(f"the configuration has no sink `{name}`")
        _sinks[name] = number
    return _sinks[name]


# ---- Rows of a batch ----


class _Lists:
    """Lists with an item for each of the rows, in the order of their numbers: `zip(rows, rows.texts("name"))`."""

    @property
    def operations(self):
        """The operations: "insert", "update" or "delete"."""
        return [_current.operation_list[index] for index in self._indexes()]

    @property
    def tables(self):
        """The full names of the rows' tables."""
        return [_current.table_list[index].name for index in self._indexes()]

    def texts(self, column, view=NEWEST):
        """A column of kind decimal, text, json, date, time, datetime, timestamp, enum or set; None for NULL.

        These lists raise a `ColumnError` if the table of one of the rows lacks the column or has it of another kind, if
        a row does not have that image or if the column is absent from it, and if an integer does not fit."""
        return self._list("text", column, view)

    def integers(self, column, view=NEWEST):
        """A column of kind int, uint, year or bit, from -2^63 to 2^63 - 1; None for NULL."""
        return self._list("integer", column, view)

    def unsigned(self, column, view=NEWEST):
        """A column of kind int, uint, year or bit, from 0 to 2^64 - 1; None for NULL."""
        return self._list("unsigned", column, view)

    def floats(self, column, view=NEWEST):
        """A column of kind float; None for NULL."""
        return self._list("float", column, view)

    def decimals(self, column, view=NEWEST):
        """A column of kind decimal, as `decimal.Decimal`; None for NULL."""
        return [text and decimal.Decimal(text) for text in self._list("decimal", column, view)]

    def blobs(self, column, view=NEWEST):
        """A column of kind bytes, geometry or vector; None for NULL."""
        return self._list("bytes", column, view)

    def has(self, column, view=NEWEST):
        """Whether the transform may read the column and the row's image contains it."""
        return [Image(_current, index, view).has(column) for index in self._indexes()]

    def objects(self, view=NEWEST):
        """The rows as dicts; None for a row that does not have that image."""
        texts = query.json(_VIEWS[view])
        return [texts[index] and json.loads(texts[index]) for index in self._indexes()]

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
    """The rows of some tables and operations for which some tests hold. The engine selects them where they are passed
    to a command; iterating over them gives their numbers."""

    def __init__(self, tables, operations, conditions):
        self._of_tables, self._of_operations, self._conditions = tables, operations, conditions
        self.rule = query.Rule(tables, *(operation in operations for operation in _OPERATIONS), conditions)
        self.given = bulk.Rows_ThatMatch(self.rule)

    def where(self, **tests):
        """Returns those of these rows for which all of these tests hold: `column=test`. A table of these rows that
        lacks one of the columns is an error of the batch."""
        asked = (self, "where", *tests.items())
        rows = _known.get(asked)
        if rows is None:
            new = [test.condition(column) for column, test in tests.items()]
            rows = _know(asked, Rows(self._of_tables, self._of_operations, self._conditions + new))
        return rows

    def of(self, *operations):
        """Returns those of these rows with these operations: "insert", "update", "delete"."""
        asked = (self, "of", *operations)
        rows = _known.get(asked)
        if rows is None:
            if unknown := set(operations).difference(_OPERATIONS):
                raise ValueError(f"the operations are insert, update and delete, not {', '.join(sorted(unknown))}")
            left = [operation for operation in self._of_operations if operation in operations]
            rows = _know(asked, Rows(self._of_tables, left, self._conditions))
        return rows

    def table(self, *names):
        """Returns those of these rows that are of these tables: "shop.orders"."""
        asked = (self, "table", *names)
        rows = _known.get(asked)
        if rows is None:
            if unknown := [name for name in names if not _decides_on(name)]:
                raise ValueError(f"the transform's `tables` lack {', '.join(unknown)}")
            left = [name for name in names if not self._of_tables or name in self._of_tables]
            # Without tables the rule would be about all.
            operations = self._of_operations if left else ()
            rows = _know(asked, Rows(left, operations, self._conditions))
        return rows

    def is_about(self, table):
        return not self._of_tables or table.name in self._of_tables

    def _indexes(self):
        if self is _ALL:
            return range(len(_current.rows))
        return [_current.indexes[number] for number in self]

    def __iter__(self):
        return iter(_current.select(self))

    def __len__(self):
        return len(_current.select(self))


_KNOWN_MAX = 256
_known = {}  # rows, by those of which they are a part and the arguments
_edit_texts = {}  # texts of new values, by rows, column and value


def _know(asked, rows):
    """Stores rows for the next batch, which mostly asks for the same ones."""
    if len(_known) == _KNOWN_MAX:
        _known.clear()
    _known[asked] = rows
    return rows


def _decides_on(name):
    """Returns whether the transform decides on the table of this full name."""
    if _instance.tables is None:
        return True
    tables = _names(_instance.tables)
    return name in tables or any(t.endswith(".*") and name.startswith(t[:-1]) for t in tables)


_ALL = Rows([], _OPERATIONS, [])
_instance = None  # the transform
_current = None  # the batch of the current call


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
    def operation_list(self):
        return [_OPERATIONS[code - 1] for code in query.operations()]

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
        if operation == "insert" and view == BEFORE or operation == "delete" and view == AFTER:
            raise ColumnError(f"the row has no {view} image")
        column = self.table_list[index].column(name)
        if not self.answer(query.has, column, view)[index]:
            raise ColumnError(f"{column.label} is absent from the row's image; ask `has` first")
        if what == "integer" and (value := self.answer(query.unsigned, column, view)[index]) is not None:
            raise ColumnError(f"{column.label} is {value}, which does not fit a signed integer")
        if what == "unsigned" and (value := self.answer(query.integers, column, view)[index]) is not None:
            raise ColumnError(f"{column.label} is {value}, which does not fit an unsigned integer")
        if column.kind is types.Kind.JSON:
            nulls = self.matching(self.table_list[index], column, query.Test_Null, view)
            if self.rows[index] not in nulls:
                raise ColumnError(f"{column.label} has only its changes: the update was partial")

    def select(self, rows):
        known = self._selections.get(rows)
        if known is None:
            known = self._selections[rows] = self.rows if rows is _ALL else query.select(rows.rule)
        return known

    def matching(self, table, column, test, view):
        """Returns the numbers of the rows of a table for which a test of a column holds."""
        key = (table, column.name, test, view)
        known = self._selections.get(key)
        if known is None:
            conditions = [query.Condition(column.name, _VIEWS[view], test(), False)]
            known = self._selections[key] = set(query.select(query.Rule([table.name], True, True, True, conditions)))
        return known


class Batch(_Lists):
    """Row changes, in binlog order. The commands' `rows` are what `all`, `where`, `of` and `table` return, or numbers.
    The lists are about all rows: `zip(batch.rows, batch.texts("name"))`."""

    def __init__(self):
        self._kept, self._emits = [], []

    @property
    def rows(self):
        """The numbers of all rows."""
        return _current.rows

    @property
    def all(self):
        """All rows."""
        return _ALL

    def where(self, **tests):
        """Returns the rows for which all of these tests hold: `column=test`. A table in the batch that lacks one of the
        columns is an error of the batch; `table` leaves out other tables."""
        return _ALL.where(**tests)

    def of(self, *operations):
        """Returns the rows of these operations: "insert", "update", "delete"."""
        return _ALL.of(*operations)

    def table(self, *names):
        """Returns the rows of these tables: "shop.orders"."""
        return _ALL.table(*names)

    def each(self, rows=_ALL):
        """Returns the rows one by one, each as a `Row`."""
        data = _current
        indexes = rows._indexes() if isinstance(rows, Rows) else [data.indexes[number] for number in rows]
        return (Row(self, data, index) for index in indexes)

    def _indexes(self):
        return _ALL._indexes()

    def keep(self, rows, sink=None, group=""):
        """Keeps the rows. They may go to a sink, in a message group: a text, or texts and `part.column(name)`s."""
        if isinstance(rows, Rows):
            given = rows.given
            bulk.keep(given)
        else:
            rows = list(rows)
            given = bulk.Rows_These(rows)
            self._kept.extend(rows)
        if sink is not None or group:
            bulk.reroute(given, _sink(sink), _group(group))

    def set(self, rows, column, value):
        """Sets a column to a value in the rows' after images; None is NULL. The value's type is the one that the column
        is read as; a column of bytes may be set to a text as well."""
        for given, text in self._edits(rows, column, value):
            bulk.set(given, column, text)

    def replace(self, rows, column, value):
        """Sets a column to a value in both images of the rows, wherever it has a value. Use it to hide what must not
        get out."""
        for given, text in self._edits(rows, column, value):
            bulk.replace(given, column, text)

    def _edits(self, rows, column, value):
        """Returns pairs of rows and the text of their new value, which depends on the column's kind in their table."""
        key = (rows, column, type(value), value) if isinstance(rows, Rows) else None
        if key in _edit_texts:
            return [(rows.given, _edit_texts[key])]
        if key is not None:
            # Mostly it is the same for all tables, and the batch's ones need not be known.
            tables = [table for table in _described.values() if rows.is_about(table)]
            try:
                texts = {table.column(column).text_of(value) for table in tables}
            except ColumnError:
                texts = ()
            if len(texts) == 1:
                if len(_edit_texts) == _KNOWN_MAX:
                    _edit_texts.clear()
                [_edit_texts[key]] = texts
                return [(rows.given, _edit_texts[key])]
        by_table = {}
        for number in rows:
            by_table.setdefault(_current.table_list[_current.indexes[number]], []).append(number)
        return [(bulk.Rows_These(of), table.column(column).text_of(value)) for table, of in by_table.items()]

    def write(self, recipe, rows, sink=None):
        """Makes a message of each of the rows by a recipe."""
        bulk.write(rows.given if isinstance(rows, Rows) else bulk.Rows_These(list(rows)), recipe, _sink(sink))

    def emit(self, row, body, sink=None, group="", deduplication_id="", attributes=None):
        """Makes a message of a row, by its number. A body that is not a str is written as JSON."""
        body = _utf8(body) if isinstance(body, str) else _json(body)
        attributes = [(_utf8(name), _utf8(value)) for name, value in attributes.items()] if attributes else []
        message = bulk.Message(row, _sink(sink), _utf8(group), _utf8(deduplication_id), body, attributes)
        self._emits.append(message)

    def fail(self, row, message):
        """Reports a row, by its number, that the transform cannot process; the plugin's `on_error` decides on it."""
        bulk.fail(row, _escaped(message))

    def _verdict(self):
        if self._emits:
            bulk.emit(self._emits)
        _verdict.keep = sorted(self._kept)
        return _verdict


_verdict = types.Verdict([], [], [], [], [], [], [], b"")  # the other lists stay empty: `bulk` has their items


class Image:
    """The columns of a row, in one of its images. The getters return None for NULL. They raise a `ColumnError`, which
    is the failure of the row, if the table lacks the column, if the transform does not declare it, if it is of another
    kind, and if it is absent from the image."""

    __slots__ = ("_data", "_index", "_table", "_view")

    def __init__(self, data, index, view):
        self._data, self._index, self._table, self._view = data, index, data.table_list[index], view

    def text(self, column):
        """A column of kind decimal, text, json, date, time, datetime, timestamp, enum or set."""
        return self._get("text", column)

    def integer(self, column):
        """A column of kind int, uint, year or bit, from -2^63 to 2^63 - 1. A greater value is a `ColumnError`."""
        return self._get("integer", column)

    def unsigned(self, column):
        """A column of kind int, uint, year or bit, from 0 to 2^64 - 1. A negative value is a `ColumnError`."""
        return self._get("unsigned", column)

    def float(self, column):
        """A column of kind float."""
        return self._get("float", column)

    def decimal(self, column):
        """A column of kind decimal, as `decimal.Decimal`."""
        text = self._get("decimal", column)
        return text and decimal.Decimal(text)

    def bytes(self, column):
        """A column of kind bytes, geometry or vector."""
        return self._get("bytes", column)

    def has(self, column):
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
    def operation(self):
        """ "insert", "update" or "delete"."""
        return self._data.operation_list[self._index]

    @property
    def table(self):
        """The full name of the row's table."""
        return self._table.name

    @property
    def before(self):
        """The image before the change; None for an insert."""
        return None if self.operation == "insert" else Image(self._data, self._index, BEFORE)

    @property
    def after(self):
        """The image after the change; None for a delete."""
        return None if self.operation == "delete" else Image(self._data, self._index, AFTER)

    def changed(self, column):
        """Whether an update changed the column; False for inserts and deletes."""
        found = self._table.column(column)
        if self.operation != "update":
            return False
        return self.number in self._data.matching(self._table, found, query.Test_Changed, NEWEST)

    def changed_to(self, column, text):
        """Whether a column that `text` reads has this text after the change, and another value, or none, before it. A
        column that is absent after the change is unchanged; one that is absent before it had another value."""
        if not isinstance(text, str):
            raise TypeError(f"`changed_to` compares texts, and {text!r} is not a str")
        newest = self._data.column(self._table, "text", column, NEWEST)[self._index]
        if newest != text or self.operation == "delete":
            return False
        return self._data.column(self._table, "text", column, BEFORE)[self._index] != text

    def keep(self, sink=None, group=""):
        self._batch.keep((self.number,), sink, group)

    def set(self, column, value):
        """Sets a column to a value in the after image; None is NULL."""
        text = self._table.column(column).text_of(value)
        bulk.set(bulk.Rows_These([self.number]), column, text)

    def replace(self, column, value):
        """Sets a column to a value in both images, wherever it has a value."""
        text = self._table.column(column).text_of(value)
        bulk.replace(bulk.Rows_These([self.number]), column, text)

    def emit(self, body, **to):
        """Makes a message of the row, with the arguments of `Batch.emit`."""
        self._batch.emit(self.number, body, **to)

    def fail(self, message):
        """Reports that the transform cannot process the row."""
        self._batch.fail(self.number, message)


# ---- The transform ----


class Transform:
    """A transform. A subclass has `batch` or `row`."""

    #: The full names of the tables on whose rows it decides, or `shop.*` for all tables of a schema; None: all tables.
    #: A name that has a dot is within backticks: "`my.shop`.orders".
    tables = None
    #: The names of the columns that it uses: a list for all of these tables, or a dict with lists by the tables' full
    #: names. The engine need not decode the others. Without names it uses all columns of the table. A name that the
    #: table does not have is an error.
    columns = None

    def setup(self, settings):
        """Called once, with the settings. An exception stops the engine's start."""

    def batch(self, batch):
        """Decides on a batch: by default, row by row."""
        for row in batch.each():
            try:
                self.row(row)
            except Retry:
                raise
            except Exception as error:
                row.fail(_message(error))

    def row(self, row):
        """Decides on a row."""
        raise NotImplementedError("a transform has a method `row` or `batch`")


_SDK_FILE = _folded.__code__.co_filename
_LIBRARY = json.JSONEncoder.encode.__code__.co_filename.removesuffix("json/encoder.py")


def _escaped(message):
    """Returns a message with escapes in place of lone surrogates."""
    return message.encode(errors="backslashreplace").decode()


def _message(error):
    """Returns an exception's message, with its type and the innermost place in the transform's own files."""
    if isinstance(error, ColumnError):
        return _escaped(str(error))
    text = ": ".join(filter(None, [type(error).__name__, str(error)]))
    place, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = code.co_filename
        if file != _SDK_FILE and not file.startswith((_LIBRARY, "<")):
            place = f" ({file.rpartition('/')[2]}:{traceback.tb_lineno} in {code.co_name})"
        traceback = traceback.tb_next
    return _escaped(text + place)


def exported(transform):
    """Returns the class of the module's exports, which must be named `WitWorld`."""
    global _instance
    instance = _instance = transform()

    class WitWorld:
        def configure(self, settings):
            try:
                instance.setup(json.loads(settings))
            except Exception as error:
                raise Err(_message(error))

        def describe(self, table):
            name = f"{_quoted(table.schema)}.{_quoted(table.name)}"
            _described.pop(table.id, None)
            _edit_texts.clear()
            if not _decides_on(name):
                return types.Interest_Pass()
            declared = instance.columns
            declared = _names(declared.get(name) if isinstance(declared, dict) else declared)
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
                return batch._verdict()
            except Retry as error:
                raise Err(types.Failure_Retry(_escaped(str(error))))
            except Exception as error:
                raise Err(types.Failure_Reject(_message(error)))

    return WitWorld
