"""The reshape, row by row: makes a small message of each change of an order, in a group for each customer."""

from rowmill import Transform, exported


class Reshape(Transform):
    tables = ["shop.orders"]

    def row(self, row):
        customer = row.integer("customer")
        if row.operation == "delete":
            body = {"id": row.integer("id"), "deleted": True}
        else:
            texts = {column: row.text(column) for column in ("status", "total", "email")}
            body = {"id": row.integer("id"), "customer": customer, **texts}
        row.emit(body, group=f"customer-{'' if customer is None else customer}")


WitWorld = exported(Reshape)
