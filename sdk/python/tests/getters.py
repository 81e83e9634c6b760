"""Calls the getter that the column `ask` of a row names, and emits what it returns: `text name before`. The case
`sdk/cases/getters` has the results that the SDKs of all languages must give."""

from rowmill import Transform, exported

GETTERS = {"text": "text", "int": "integer", "uint": "unsigned", "float": "float", "bytes": "bytes", "has": "has"}


class Getters(Transform):
    tables = ["shop.*"]
    columns = {"shop.misspelt": ["ask", "statuss"], "shop.declared": ["ask", "NAME"]}

    def row(self, row):
        getter, *arguments = row.text("ask").split(" ")
        if getter in GETTERS:
            column, *views = arguments
            image = getattr(row, views[0]) if views else row
            if image is None:
                return row.fail(f"the row has no {views[0]} image")
            value = getattr(image, GETTERS[getter])(column)
            return row.emit({"value": value.hex() if getter == "bytes" and value is not None else value})
        if getter == "changed_to":
            return row.emit({"value": row.changed_to(*arguments)})
        if getter == "changed":
            return row.emit({"value": row.changed(*arguments)})
        if getter == "fail":
            return row.fail("asked to")
        row.keep()
        if getter == "replace":
            row.replace(arguments[0], "x")
        else:
            row.set(arguments[0], {"set": "x", "set_int": 7}[getter])


WitWorld = exported(Getters)
