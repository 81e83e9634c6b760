"""Write Rowmill transforms in Python: this file is all there is.

    from rowmill import Transform, changed_to, exported

    class Filter(Transform):
        tables = ["shop.orders"]

        def batch(self, batch):
            batch.keep(batch.where(status=changed_to("paid")))

    WitWorld = exported(Filter)

A batch is asked about as a whole, the engine does to rows what it's told of all of them, and it writes messages as
a recipe says: so a row costs next to nothing, though Python is interpreted. Where a row must be looked at, `row`
instead of `batch` is called for each, at a microsecond or so:

        def row(self, row):
            if row.changed_to("status", "paid"):
                row.keep()

A row that is neither kept nor failed is dropped; rows of other tables pass.

    componentize-py -d wit -w transform componentize --stub-wasi app -o NAME.wasm
"""

import functools
import json

from componentize_py_types import Err
from wit_world.imports import bulk, host, query, types

NEWEST, BEFORE, AFTER = query.View.NEWEST, query.View.BEFORE, query.View.AFTER


class _Test:
    """What `where` asks of a column. The same is asked of batch after batch: it is made once, and known by where it is."""

    __slots__ = ("kind", "values", "view", "negated")

    def __init__(self, kind, values, view, negated):
        self.kind, self.values, self.view, self.negated = kind, values, view, negated

    def condition(self, column):
        return query.Condition(column, self.view, self.kind(*self.values), self.negated)


@functools.lru_cache(256)
def _test(kind, *values, view=NEWEST, negated=False):
    return _Test(kind, values, view, negated)


def equal(value):
    """The column is this."""
    return _test(query.Test_Equal, str(value))


def one_of(*values):
    return _test(_one_of, *map(str, values))


def _one_of(*texts):
    return query.Test_OneOf(list(texts))


def prefix(text):
    return _test(query.Test_Prefix, text)


def between(low=None, high=None):
    """Both inclusive; None is no bound."""
    return _test(query.Test_Between, ("" if low is None else str(low), "" if high is None else str(high)))


def is_null():
    return _test(query.Test_Null)


def changed():
    return _test(query.Test_Changed)


def changed_to(value):
    """It is this now and wasn't before."""
    return _test(query.Test_ChangedTo, str(value))


def negated(test):
    return _test(test.kind, *test.values, view=test.view, negated=not test.negated)


def before(test):
    """About the row as it was before."""
    return _test(test.kind, *test.values, view=BEFORE, negated=test.negated)


class part:
    """What a recipe puts into a message."""

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
        return types.Part_Constant(json.dumps(value))


def recipe(fields, group=()):
    """A way to make messages: `recipe({"id": part.column("id")}, group=["order-", part.column("id")])`. Make it
    once, in `setup` or later."""
    fields = [types.Field(name, value) for name, value in fields.items()]
    return host.add_recipe(types.Recipe(fields, _group(group)))


def _group(group):
    pieces = [group] if isinstance(group, str) else group
    return [
        types.GroupPart_Text(piece) if isinstance(piece, str) else types.GroupPart_Column(piece.value)
        for piece in pieces
        if piece != ""
    ]


def log(message, level=host.Level.INFO):
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


def _text(value):
    return None if value is None else str(value)


_OPERATIONS = ("insert", "update", "delete")
_KNOWN_MAX = 256
_known = {}  # rows, by those of which they are some and what was asked


class Rows:
    """Rows that the engine picks: those of some operations for which some tests hold. What is done with them it does by
    itself; who looks at them gets their numbers."""

    def __init__(self, operations, all_of):
        self.operations, self.all_of = operations, all_of
        self.rule = bulk.Rule(*(operation in operations for operation in _OPERATIONS), all_of)
        self.given = bulk.Rows_ThatMatch(self.rule)
        self._picked, self._picked_of = None, None

    def where(self, **tests):
        """Those of these for which all of these hold too: `column=test`."""
        asked = (self, *tests.items())
        rows = _known.get(asked)
        if rows is None:
            new = [test.condition(column) for column, test in tests.items()]
            rows = _know(asked, Rows(self.operations, self.all_of + new))
        return rows

    def of(self, *operations):
        """Those of these operations: "insert", "update", "delete"."""
        asked = (self, "of", *operations)
        rows = _known.get(asked)
        if rows is None:
            left = [operation for operation in self.operations if operation in operations]
            rows = _know(asked, Rows(left, self.all_of))
        return rows

    @property
    def _numbers(self):
        if self._picked_of is not _current:
            self._picked, self._picked_of = bulk.pick(self.rule), _current
        return self._picked

    def __iter__(self):
        return iter(self._numbers)

    def __len__(self):
        return len(self._numbers)


def _know(asked, rows):
    """A batch is asked for the same rows as the one before, mostly: they are made once."""
    if len(_known) == _KNOWN_MAX:
        _known.clear()
    _known[asked] = rows
    return rows


_ALL = Rows(_OPERATIONS, [])
_current = None  # the batch that is decided on


def _given(rows):
    return rows.given if isinstance(rows, Rows) else bulk.Rows_These(list(rows))


class Batch:
    """Row changes, in binlog order. `rows` are what `all`, `where` and `of` give, or numbers."""

    def __init__(self):
        self._kept, self._emits, self._columns = [], [], {}
        self._rows, self._operations = None, None

    @property
    def rows(self):
        """The numbers of all rows."""
        if self._rows is None:
            self._rows = list(query.asked())
        return self._rows

    @property
    def all(self):
        """All rows."""
        return _ALL

    def where(self, **tests):
        """The rows for which all of these hold: `column=test`."""
        return _ALL.where(**tests)

    def of(self, *operations):
        """The rows of these operations: "insert", "update", "delete"."""
        return _ALL.of(*operations)

    def each(self):
        """Each row, to be looked at."""
        return (Row(self, number, index) for index, number in enumerate(self.rows))

    @property
    def operations(self):
        """For each row of `rows`: "insert", "update" or "delete"."""
        if self._operations is None:
            self._operations = [_OPERATIONS[number - 1] for number in query.operations()]
        return self._operations

    def _column(self, values, column, view):
        """Asked for once."""
        key = (values, column, view)
        known = self._columns.get(key)
        if known is None:
            known = self._columns[key] = values(column, view)
        return known

    def texts(self, column, view=NEWEST):
        """A column of each row of `rows`; None where it is NULL or absent."""
        return self._column(query.texts, column, view)

    def integers(self, column, view=NEWEST):
        return self._column(query.integers, column, view)

    def floats(self, column, view=NEWEST):
        return self._column(query.floats, column, view)

    def objects(self, view=NEWEST):
        """Each row of `rows` as a dict."""
        return [None if text is None else json.loads(text) for text in query.json(view)]

    def keep(self, rows, sink=None, group=""):
        """These rows stay. They may go to a sink, in a group: a text, or texts and `part.column(name)`s."""
        if isinstance(rows, Rows):
            bulk.keep(_given(rows))
        else:
            self._kept.extend(rows)
        if sink is not None or group:
            bulk.reroute(_given(rows), _sink(sink), _group(group))

    def set(self, rows, column, value):
        """A column of these rows gets another value in the row as it is now."""
        bulk.set(_given(rows), column, _text(value))

    def replace(self, rows, column, value):
        """A column of these rows gets another value wherever it has one, in the row as it is now and as it was: what must
        not get out is hidden by this."""
        bulk.replace(_given(rows), column, _text(value))

    def write(self, recipe, rows, sink=None):
        """The engine makes a message of each of these rows, as the recipe says."""
        bulk.write(_given(rows), recipe, _sink(sink))

    def emit(self, row, body, sink=None, group="", deduplication_id="", attributes=None):
        """A message is made of the row. What isn't text becomes JSON."""
        body = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
        attributes = list(attributes.items()) if attributes else []
        self._emits.append(bulk.Message(row, _sink(sink), group, deduplication_id, body, attributes))

    def fail(self, row, message):
        """The row can't be processed; the plugin's `on_error` says what becomes of it."""
        bulk.fail(row, message)

    def _verdict(self):
        if self._emits:
            bulk.emit(self._emits)
        _verdict.keep = self._kept
        return _verdict


_verdict = types.Verdict([], [], [], [], [], [], [], b"")  # all else is said to `bulk`


class Row:
    """A row to be looked at: what is asked of one is got for all of the batch at once."""

    __slots__ = ("_batch", "number", "_index")

    def __init__(self, batch, number, index):
        self._batch, self.number, self._index = batch, number, index

    @property
    def operation(self):
        """ "insert", "update" or "delete"."""
        return self._batch.operations[self._index]

    def text(self, column, view=NEWEST):
        """A column as text; None where it is NULL or absent."""
        return self._batch._column(query.texts, column, view)[self._index]

    def integer(self, column, view=NEWEST):
        return self._batch._column(query.integers, column, view)[self._index]

    def float(self, column, view=NEWEST):
        return self._batch._column(query.floats, column, view)[self._index]

    def changed_to(self, column, value):
        """Whether the column is this now and wasn't before."""
        return self.text(column, AFTER) == value and self.text(column, BEFORE) != value

    def keep(self, sink=None, group=""):
        self._batch.keep((self.number,), sink, group)

    def set(self, column, value):
        self._batch.set((self.number,), column, value)

    def replace(self, column, value):
        self._batch.replace((self.number,), column, value)

    def emit(self, body, **to):
        self._batch.emit(self.number, body, **to)

    def fail(self, message):
        self._batch.fail(self.number, message)


class Transform:
    """What a module does."""

    #: The tables whose rows it decides on; None: all. A name that has a dot is within backticks: "`my.shop`.orders".
    tables = None
    #: The columns that it uses of them: the engine needn't decode the others to ask about a row; None: all.
    columns = None

    def setup(self, settings):
        """Called once with the settings. What it raises stops the engine's start."""

    def batch(self, batch):
        """Decides on a batch: by default, row by row."""
        for row in batch.each():
            self.row(row)

    def row(self, row):
        """Decides on a row."""
        raise NotImplementedError


def _quoted(name):
    """A name as it is written beside a dot: within backticks where it has one itself."""
    return "`" + name.replace("`", "``") + "`" if "." in name or "`" in name else name


def exported(transform):
    """What the module exports."""
    instance = transform()

    class WitWorld:
        def configure(self, settings):
            try:
                instance.setup(json.loads(settings))
            except Exception as error:
                raise Err(str(error))

        def describe(self, table):
            wanted = instance.tables is None or f"{_quoted(table.schema)}.{_quoted(table.name)}" in instance.tables
            if not wanted:
                return types.Interest_Pass()
            used = instance.columns or ()
            columns = [index for index, column in enumerate(table.columns) if column.name in used]
            # Without columns it would be all.
            if not columns:
                return types.Interest_All()
            return types.Interest_Want(types.Want(columns, before=True, inserts=True, updates=True, deletes=True))

        def process(self, rows):
            global _current
            batch = _current = Batch()
            try:
                instance.batch(batch)
            except Exception as error:
                raise Err(types.Failure_Reject(f"{type(error).__name__}: {error}"))
            return batch._verdict()

    return WitWorld
