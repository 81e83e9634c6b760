"""The reshape, row by row: makes a small message of each change of an order, in a group for each customer."""

from rowmill import Transform, exported


class Reshape(Transform):
    tables = ["shop.orders"]

    def row(self, row):
        customer = row.integer("customer")
        body = {"id": row.integer("id")}
        if row.operation == "delete":
            body["deleted"] = True
        else:
            body["customer"] = customer
            body.update((column, row.text(column)) for column in ("status", "total", "email"))
        row.emit(body, group=f"customer-{'' if customer is None else customer}")


WitWorld = exported(Reshape)
